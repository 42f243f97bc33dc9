"""On behalf of a run: who may ask for others, what the run must show, and whose rights decide."""

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from desk_workbench import IDENTITY, ISSUER_SEED, NOW, DeskBench
from on_behalf_workbench import GATEWAY, KEY, POLICY, PROXIED, acting_desk, ask, refusal, shown
from people_desk import GUARDED, asked, bench_with, decide, notice, order, revoke

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Call, Report, Resolve, Subject, Way
from agent_sdk.wire.sealing import run_public_key
from agent_sdk.wire.static_tokens import mint
from broker_worker.core.configuration import StaticToken
from broker_worker.core.policy import Origin
from broker_worker.pipeline.delegation import FAULTS
from broker_worker.pipeline.session import start_session


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk with two agents that act for others."""
    return acting_desk(tmp_path)


async def test_a_proxy_has_what_the_run_may_use_and_the_run_has_not(bench: DeskBench) -> None:
    """The value is sealed to the proxy, and the audit names the run, the way, and who asked."""
    run, proxy = bench.run("claude"), bench.run("egress")
    reply = await ask(bench, proxy, shown(run))
    assert reply.results[0].value == b"value of anthropic"
    record = bench.sink.of("access")[-1]
    assert (record.agent_id, record.run_id, record.deliver) == ("claude", run.credential.run_id, "proxy")
    assert record.actor == f"egress/{proxy.credential.run_id}"
    for way, reason in (("value", "deliver_not_granted"), ("env", "deliver_not_granted"), ("proxy", "not_a_proxy")):
        own = await bench.ask(run, body=Resolve((PROXIED,), "", None, way))  # type: ignore[arg-type]  # a table of ways
        assert own.status == "refused"
        assert bench.sink.records[-1].reason == reason


async def test_an_entry_without_deliver_allows_every_way(bench: DeskBench) -> None:
    """And the audit names the way that was asked for."""
    run, proxy = bench.run("claude"), bench.run("egress")
    for way in ("value", "env", "file"):
        body = Resolve((KEY,), "", None, way)
        assert (await bench.ask(run, body=body)).status == "ok"
    assert (await ask(bench, proxy, shown(run), KEY)).status == "ok"
    assert [record.deliver for record in bench.sink.of("access")] == ["value", "env", "file", "proxy"]


@pytest.mark.parametrize(
    ("actor", "subject", "way", "reason"),
    [
        ("claude", "codex", "proxy", "may_not_act_for_others"),
        ("egress", "claude", "value", "may_not_act_for_others"),
        ("egress", "grok", "proxy", "may_not_act_for_this_agent"),
        ("gateway", "claude", "proxy", "may_not_act_for_others"),
    ],
)
async def test_nobody_acts_for_others_but_as_the_policy_says(
    bench: DeskBench, actor: str, subject: str, way: Way, reason: str
) -> None:
    """A request that the policy does not let the sender make is denied as a whole."""
    reply = await ask(bench, bench.run(actor), shown(bench.run(subject)), KEY, way)
    assert (reply.status, reply.code) == ("refused", Code.DENIED)
    assert refusal(bench) == (actor, Code.DENIED, reason)


async def test_what_the_run_shows_must_be_good(bench: DeskBench) -> None:
    """A forged token, another's signature, one that is over, and rubbish are all nobody."""
    proxy = bench.run("egress")
    forged = bench.run("claude", issuer_seed=bytes([77]) * 32)
    short = bench.run("claude", ttl=timedelta(minutes=2))
    for subject in (shown(forged), Subject("rubbish"), Subject("sbt_00000000_nothing")):
        reply = await ask(bench, proxy, subject)
        assert (reply.status, reply.code) == ("refused", Code.UNAUTHENTICATED)
    bench.clock.time += 3 * 60_000
    reply = await ask(bench, proxy, shown(short))
    assert reply.code == Code.EXPIRED


@pytest.mark.parametrize("claimed", [{"agent": "codex"}, {"run": "run-of-another"}, {"agent": "claude", "run": "x"}])
async def test_who_calls_itself_another_is_nobody(bench: DeskBench, claimed: dict[str, str]) -> None:
    """A name beside the token counts only if the token says the same."""
    run, gateway = bench.run("claude"), bench.run("gateway")
    token, own = run.credential.token, {"agent": "claude", "run": run.credential.run_id}
    assert (await ask(bench, gateway, Subject(token, **own), KEY, "value")).status == "ok"
    reply = await ask(bench, gateway, Subject(token, **claimed), KEY, "value")
    assert (reply.status, reply.code) == ("refused", Code.UNAUTHENTICATED)
    assert refusal(bench)[2] == "subject_is_another"


async def test_a_policy_can_want_a_proof(bench: DeskBench) -> None:
    """Made by the run's key, out to the audience that the policy names, and still good."""
    run, other, gateway = bench.run("codex"), bench.run("codex"), bench.run("gateway")
    bad = (
        shown(run),
        shown(run, audience="http://127.0.0.1:9999"),
        shown(run, audience=GATEWAY, seed=other.credential.seed),
        Subject(run.credential.token, shown(other, audience=GATEWAY).proof),
        Subject(run.credential.token, "rubbish"),
    )
    for subject in bad:
        assert (await ask(bench, gateway, subject, KEY, "value")).code == Code.UNAUTHENTICATED
    old = shown(run, audience=GATEWAY, now=run.now() - 10 * 60_000)
    assert (await ask(bench, gateway, old, KEY, "value")).code == Code.EXPIRED
    good = await ask(bench, gateway, shown(run, audience=GATEWAY), KEY, "value")
    assert good.results[0].value == b"value of openai"


async def test_a_proof_that_was_not_asked_for_must_hold_as_well(bench: DeskBench) -> None:
    """And one that nobody can check, as the policy names no audience, is no proof."""
    run = bench.run("claude")
    proof = shown(run, audience=GATEWAY)
    assert (await ask(bench, bench.run("gateway"), proof, KEY, "value")).status == "ok"
    assert (await ask(bench, bench.run("egress"), proof)).code == Code.UNAUTHENTICATED
    assert refusal(bench)[2] == "subject_proof_not_taken"


async def test_a_static_token_stands_for_its_agent_until_its_end(bench: DeskBench) -> None:
    """In a run of its own name; an agent whose policy wants a proof cannot use one."""
    gateway = bench.run("gateway")
    tokens = {}
    for place, agent in enumerate(("claude", "codex")):
        text, record = mint(bytes([place + 1]) * 37)
        tokens[agent] = text
        static = StaticToken(record.token_id, agent, record.digest, NOW, NOW + 60_000, Origin("tokens.yaml", 1))
        known = {**bench.desk.configuration.static_tokens, record.token_id: static}
        bench.desk.configuration = replace(bench.desk.configuration, static_tokens=known)
    reply = await ask(bench, gateway, Subject(tokens["claude"]), KEY, "value")
    assert reply.results[0].value == b"value of openai"
    record_of = bench.sink.of("access")[-1]
    assert (record_of.agent_id, record_of.issuer) == ("claude", "static-token")
    assert record_of.run_id == record_of.token_id != ""
    assert (await ask(bench, gateway, Subject(tokens["codex"]), KEY, "value")).code == Code.UNAUTHENTICATED
    same_id, _ = mint(bytes([1]) * 5 + bytes(32))
    assert same_id[:13] == tokens["claude"][:13]
    for other in (same_id, tokens["claude"][:-1] + "!"):
        assert (await ask(bench, gateway, Subject(other), KEY, "value")).code == Code.UNAUTHENTICATED
    bench.clock.time = NOW + 60_000 + bench.desk.opener.skew - 1
    assert (await ask(bench, gateway, Subject(tokens["claude"]), KEY, "value")).results[0].code == Code.EXPIRED
    bench.clock.time += 1
    assert (await ask(bench, gateway, Subject(tokens["claude"]), KEY, "value")).code == Code.EXPIRED


async def test_whatever_is_revoked_gets_nothing_through_anybody(bench: DeskBench) -> None:
    """The run, its agent, its token, and the proxy itself."""
    run, proxy = bench.run("claude"), bench.run("egress")
    assert (await ask(bench, proxy, shown(run))).status == "ok"
    letters = revoke(bench, order("run", f"claude/{run.credential.run_id}"))
    (told,) = [letter for letter in letters if letter.reply_stream.startswith("sb:rep:{egress}")]
    assert notice(proxy, told).event == "lease_revoked"
    assert (await ask(bench, proxy, shown(run))).code == Code.REVOKED
    other = bench.run("claude")
    assert (await ask(bench, proxy, shown(other))).status == "ok"
    revoke(bench, order("agent", "egress"))
    assert (await ask(bench, proxy, shown(other))).code == Code.REVOKED


async def test_the_scope_of_either_token_narrows(bench: DeskBench) -> None:
    """Whoever launches a proxy can hold it to the names of its routes."""
    run, narrow = bench.run("claude"), bench.run("claude", scope=["openai.*"])
    proxy, held = bench.run("egress"), bench.run("egress", scope=["anthropic.*"])
    outcomes = [
        (await ask(bench, actor, shown(subject), name)).status
        for actor, subject, name in (
            (proxy, narrow, PROXIED),
            (proxy, narrow, KEY),
            (held, run, KEY),
            (held, run, PROXIED),
        )
    ]
    assert outcomes == ["refused", "ok", "refused", "ok"]


async def test_the_runs_limits_count(bench: DeskBench) -> None:
    """Whoever asks for it."""
    bench.load(
        policy=POLICY.replace("      claude:\n", "      claude:\n        limits: {run: {rate: 1/h, burst: 2}}\n")
    )
    run, proxy = bench.run("claude"), bench.run("egress")
    replies = [await ask(bench, proxy, shown(run)) for _ in range(3)]
    assert [reply.status for reply in replies] == ["ok", "ok", "refused"]
    assert replies[2].code == Code.RATE_LIMITED


async def test_a_changed_policy_holds_for_who_acts_for_others(bench: DeskBench) -> None:
    """From the next request on."""
    run, proxy = bench.run("claude"), bench.run("egress")
    assert (await ask(bench, proxy, shown(run))).status == "ok"
    bench.load(policy=POLICY.replace("agents: [claude, codex]", "agents: [codex]"))
    assert (await ask(bench, proxy, shown(run))).code == Code.DENIED


async def test_what_people_allow_a_proxy_they_do_not_allow_the_run(tmp_path: Path) -> None:
    """The way is a part of what is signed."""
    bench = bench_with(tmp_path, "run")
    policy = (tmp_path / "policy.yaml").read_text()
    acts = "\n  egress:\n    allow: []\n    acts_for: {all_agents: true, deliver: [proxy]}\n"
    bench.load(policy=policy.replace("agents:\n", f"agents:{acts}", 1))
    run, proxy = bench.run("claude"), bench.run("egress")
    name = GUARDED
    reply = await ask(bench, proxy, shown(run), name)
    assert reply.results[0].code == Code.APPROVAL_PENDING
    (request,) = asked(bench)
    assert (request.deliver, request.actor, request.agent_id) == ("proxy", "egress", "claude")
    (letter,) = decide(bench, request)
    assert notice(proxy, letter).event == "approval_settled"
    assert (await ask(bench, proxy, shown(run), name)).results[0].outcome == "granted"
    own = await bench.ask(run, body=Resolve((name,), "a call"))
    assert own.results[0].code == Code.APPROVAL_PENDING


async def test_whoever_acts_for_others_does_not_act_for_itself(bench: DeskBench) -> None:
    """Else an agent would have what it may only have used, by showing its own token."""
    acts, mine = "acts_for: {agents: [claude, codex],", "allow: [{secret: anthropic.api_key, deliver: [proxy]}]"
    policy = POLICY.replace(f"allow: []\n        {acts}", f"{mine}\n        acts_for: {{all_agents: true,")
    assert mine in policy
    bench.load(policy=policy)
    proxy, other = bench.run("egress"), bench.run("egress")
    for subject in (proxy, other):
        assert (await ask(bench, proxy, shown(subject))).code == Code.DENIED
        assert refusal(bench)[2] == "may_not_act_for_itself"


async def test_what_was_decided_anew_is_recorded_once_whoever_asked(bench: DeskBench) -> None:
    """A revocation that comes while a batch waits for its turn leaves no record of a release that was none."""
    run, proxy = bench.run("claude"), bench.run("egress")
    await ask(bench, proxy, shown(run))
    bench.sink.records.clear()

    async def revoked() -> None:
        revoke(bench, order("run", f"claude/{run.credential.run_id}"))

    body = Resolve((PROXIED,), "a call", None, "proxy", shown(run))
    served = await bench.desk.serve(bench.desk.open([bench.entry(proxy, None, body=body)]), bench.admission, revoked)
    assert proxy.open(served.answers[0].envelope).code == Code.REVOKED
    assert [record.outcome for record in bench.sink.records if record.actor is not None] == ["refused"]


async def test_refusals_are_counted_for_each_run_by_itself(bench: DeskBench) -> None:
    """Runs of two agents may have one name, and the audit has the key of the run that was refused."""
    gateway = bench.run("gateway")
    runs = [bench.run(agent, run_id="nightly") for agent in ("claude", "grok")]
    for run in runs:
        revoke(bench, order("run", f"{run.agent}/nightly"))
        assert (await ask(bench, gateway, shown(run), KEY, "value")).code == Code.REVOKED
    found = [(record.agent_id, record.run_key) for record in bench.sink.of("request_refused")]
    assert found == [(run.agent, keynames.fingerprint(run.credential.run_public_key)) for run in runs]


async def test_what_does_not_verify_is_looked_at_so_often_and_known_runs_go_on(bench: DeskBench) -> None:
    """A flood of signatures costs no worker its time; neither junk tokens nor a known run's junk proofs do."""
    known, other, gateway = bench.run("claude"), bench.run("claude"), bench.run("gateway")
    assert (await ask(bench, gateway, shown(known), KEY, "value")).status == "ok"
    forged = shown(bench.run("claude", issuer_seed=bytes([77]) * 32))
    codes = [(await ask(bench, gateway, forged, KEY, "value")).code for _ in range(FAULTS.burst + 1)]
    assert codes == [Code.UNAUTHENTICATED] * FAULTS.burst + [Code.RATE_LIMITED]
    assert (await ask(bench, gateway, shown(other), KEY, "value")).code == Code.RATE_LIMITED
    assert (await ask(bench, gateway, shown(known, audience=GATEWAY), KEY, "value")).status == "ok"
    bench.clock.time += FAULTS.interval // 1000 + 1
    assert (await ask(bench, gateway, shown(other), KEY, "value")).status == "ok"
    junk = Subject(known.credential.token, "rubbish")
    codes = [(await ask(bench, gateway, junk, KEY, "value")).code for _ in range(FAULTS.burst + 1)]
    assert codes[-1] == Code.RATE_LIMITED
    assert (await ask(bench, gateway, shown(known), KEY, "value")).status == "ok"
    assert (await ask(bench, gateway, shown(other, audience=GATEWAY), KEY, "value")).status == "ok"


async def test_a_signature_that_did_not_verify_stops_nobody_when_the_clock_is_set_back(bench: DeskBench) -> None:
    """What was looked at lately is not in the future then."""
    for _ in range(2):
        gateway, forged = bench.run("gateway"), shown(bench.run("claude", issuer_seed=bytes([77]) * 32))
        assert (await ask(bench, gateway, forged, KEY, "value")).code == Code.UNAUTHENTICATED
        assert (await ask(bench, gateway, shown(bench.run("claude")), KEY, "value")).status == "ok"
        bench.clock.set_back += 3_600_000
        bench.desk.session = start_session(IDENTITY, "worker-1", bench.clock.now(), bytes(range(32)))


async def test_an_actor_whose_token_ended_meanwhile_gets_nothing(bench: DeskBench) -> None:
    """A slow vault does not outlast it."""
    run, proxy = bench.run("claude"), bench.run("egress", ttl=timedelta(seconds=10))
    body = Resolve((PROXIED,), "a call", None, "proxy", shown(run))
    served = await bench.serve(bench.entry(proxy, None, body=body))
    bench.clock.time += 11_000
    (answer,) = await bench.finish(served)
    assert proxy.open(answer.envelope).code == Code.EXPIRED


async def test_the_audit_says_for_which_way_people_are_asked_and_by_whom(tmp_path: Path) -> None:
    """As what they sign does."""
    bench = bench_with(tmp_path, "run")
    policy = (tmp_path / "policy.yaml").read_text()
    acts = "\n  egress:\n    allow: []\n    acts_for: {all_agents: true, deliver: [proxy]}\n"
    bench.load(policy=policy.replace("agents:\n", f"agents:{acts}", 1))
    await ask(bench, bench.run("egress"), shown(bench.run("claude")), GUARDED)
    (record,) = bench.sink.of("approval_requested")
    assert (record.agent_id, record.deliver, record.actor) == ("claude", "proxy", "egress")


async def test_tokens_that_were_verified_are_not_remembered_without_end(bench: DeskBench) -> None:
    """However many runs a gateway is shown."""
    gateway, subjects = bench.run("gateway"), bench.desk._subjects
    subjects._limit = 2
    for _ in range(4):
        assert (await ask(bench, gateway, shown(bench.run("claude")), KEY, "value")).status == "ok"
    assert len(subjects._verified) == 2


async def test_what_a_proxy_reports_counts_against_its_own_limits(tmp_path: Path) -> None:
    """A run is not stopped by what is told of it, nor a proxy by what runs ask."""
    limited = POLICY.replace("      claude:\n", "      claude:\n        limits: {agent: {rate: 1/h, burst: 1}}\n")
    bench = DeskBench(tmp_path / "config", policy=limited)
    run, proxy = bench.run("claude"), bench.run("egress")
    made = Call(NOW, route="openai", name=KEY, host="api.openai.com", method="GET", path="/v1/models")
    for _ in range(3):
        assert (await bench.ask(proxy, body=Report(shown(run), (made,)))).status == "ok"
    assert (await bench.ask(run, KEY)).status == "ok"
    assert (await bench.ask(run, KEY)).code == Code.RATE_LIMITED


async def test_an_issuer_that_may_not_speak_for_an_agent_any_more_stops_who_shows_its_token(bench: DeskBench) -> None:
    """At once, also if it was verified before, and although the issuer still speaks for who asks."""
    run, gateway = bench.run("claude"), bench.run("gateway")
    assert (await ask(bench, gateway, shown(run), KEY, "value")).status == "ok"
    public = base64.urlsafe_b64encode(run_public_key(ISSUER_SEED)).decode().rstrip("=")
    issuer = f"{{name: local, public_key: {public}, agents: [gateway], max_lifetime: 8h}}"
    bench.load(policy=POLICY, issuers=f"issuers: [{issuer}]")
    assert (await ask(bench, gateway, shown(run), KEY, "value")).code == Code.UNAUTHENTICATED
