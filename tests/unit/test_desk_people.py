"""The desk with people in the way: what a fault at each port does to an approval, a lease and a revocation."""

import base64
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import CONTROL_SEED, NOW, DeskBench, Run

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import NOTICE, Notice, Release, Renew, Resolve, Result
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.approvals import ApprovalRequest, Decision, open_request, sign_decision
from broker_worker.core.control import decision_message, revocation_message
from broker_worker.core.errors import QueueError
from broker_worker.core.revocations import Kind, Revocation, sign_revocation
from broker_worker.pipeline.letters import Letter
from broker_worker.ports import Fetched

ALICE = bytes([11]) * 32
GUARDED = "anthropic.api_key"
POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - {secret: anthropic.api_key, approval: {approvers: [ops], ttl: 10m, grant: %s}}
      codex:
        allow: [openai.api_key]
"""
IDENTITY_PUBLIC = run_public_key(bytes([3]) * 32)


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names."""
    return bench_with(tmp_path, "once")


def bench_with(folder: Path, grant: str) -> DeskBench:
    """A desk whose approvals are good for that."""
    folder.mkdir(exist_ok=True)
    public = base64.urlsafe_b64encode(run_public_key(ALICE)).decode().rstrip("=")
    (folder / "approvers.yaml").write_text(
        f"approvers:\n  - {{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {public}}}]}}\n"
    )
    return DeskBench(folder, policy=POLICY % grant)


def asked(bench: DeskBench) -> list[ApprovalRequest]:
    """What people are asked."""
    return list(bench.affairs.unpublished.values())


def decide(bench: DeskBench, request: ApprovalRequest, verdict: Any = "approve", at: int | None = None) -> list[Letter]:
    """Alice decides; what the runs are told."""
    when = bench.clock.now() if at is None else at
    decision = sign_decision(request.digest(), verdict, "alice", when, ALICE + run_public_key(ALICE))
    return take(bench, decision)


def take(bench: DeskBench, decision: Decision) -> list[Letter]:
    """A decision arrives over the queue."""
    desk = bench.desk
    return bench.affairs.take_control(decision_message(decision), desk.configuration, desk.session, bench.clock.now())


def order(kind: Kind, subject: str, **other: Any) -> Revocation:
    """An operator's order."""
    values: dict[str, Any] = {
        "revocation_id": "0" * 16,
        "order": "revoke",
        "at": NOW,
        "reason": "leaked",
        "by": "olivia",
    }
    return Revocation(kind=kind, subject=subject, **{**values, **other})


def revoke(bench: DeskBench, revocation: Revocation) -> list[Letter]:
    """The order arrives over the queue; what the runs are told."""
    signed = sign_revocation(revocation, CONTROL_SEED + run_public_key(CONTROL_SEED))
    desk = bench.desk
    return bench.affairs.take_control(revocation_message(signed), desk.configuration, desk.session, bench.clock.now())


def notice(run: Run, letter: Letter) -> Notice:
    """What a letter says to its run."""
    assert letter.reply_stream == run.channel.replies
    found = run.channel.open(letter.envelope, run.now())
    assert isinstance(found, Notice)
    assert NOTICE.encode(found)
    return found


async def granted(bench: DeskBench, run: Run, name: str = "openai.api_key") -> Result:
    """A granted name's result."""
    result = await bench.ask_one(run, name)
    assert result.outcome == "granted"
    return result


async def test_people_are_asked_once_and_the_request_is_signed(bench: DeskBench) -> None:
    """However often the run asks; what is asked is in the audit before it is on the queue."""
    run = bench.run()
    first, second = [await bench.ask_one(run, GUARDED, purpose="deploy") for _ in range(2)]
    assert first.code == second.code == Code.APPROVAL_PENDING
    (request,) = asked(bench)
    assert first.approval == second.approval == request.digest()[:8]
    assert open_request(bench.affairs.signed(request), IDENTITY_PUBLIC) == request
    assert [r.approval_id for r in bench.sink.of("approval_requested")] == [request.approval_id]


async def test_whom_to_notify_is_what_the_files_say(bench: DeskBench) -> None:
    """Nobody without them; else a job with what a person must know, and where to decide."""
    run = bench.run(task="release 1.2")
    await bench.ask(run, GUARDED, purpose="deploy")
    (request,) = asked(bench)
    bench.affairs.published(request, bench.desk.configuration)
    assert bench.jobs.jobs == []
    targets = "provider: {type: local}\nnotifications: [{name: bell, kind: command, command: [/bin/true]}]\n"
    bench.affairs.published(request, bench.load(policy=POLICY % "once", broker=targets))
    ((job, told),) = bench.jobs.jobs
    assert job == "notify_approval"
    assert (told["agent_id"], told["names"], told["purpose"], told["task"]) == (
        "claude",
        [GUARDED],
        "deploy",
        "release 1.2",
    )
    assert told["link"] == f"http://localhost:7710/approvals/{request.approval_id}"


async def test_the_run_is_told_when_it_is_settled(bench: DeskBench) -> None:
    """By a notice sealed to its key, whatever was decided."""
    run = bench.run()
    for purpose, verdict in (("a", "approve"), ("b", "deny")):
        await bench.ask(run, GUARDED, purpose=purpose)
        request = asked(bench)[-1]
        (letter,) = decide(bench, request, verdict)
        told = notice(run, letter)
        assert (told.event, told.approval) == ("approval_settled", request.digest()[:8])
    assert [r.reason for r in bench.sink.of("approval_settled")] == ["approved", "denied"]


async def test_nobody_decided_in_time(bench: DeskBench) -> None:
    """The run is told so for half a minute; then people are asked anew."""
    run = bench.run(ttl=__import__("datetime").timedelta(hours=2))
    await bench.ask(run, GUARDED)
    bench.clock.time += 600_000
    desk = bench.desk
    (letter,) = bench.affairs.poll(desk.configuration, desk.session, bench.clock.now())
    assert notice(run, letter).event == "approval_settled"
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_EXPIRED
    bench.clock.time += 30_000
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING


async def test_a_full_disk_asks_nobody(bench: DeskBench) -> None:
    """What could not be recorded is not asked; when the disk is back, it is."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.sink.is_full = True
    assert (await bench.ask(run, GUARDED)).code == Code.AUDIT_UNAVAILABLE
    assert asked(bench) == []
    bench.sink.is_full = False
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    assert len(asked(bench)) == 1


async def test_a_use_that_cannot_be_kept_releases_nothing(bench: DeskBench) -> None:
    """The broker's own file is full: no value, and the approval is still there afterwards."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.once.is_full = True
    result = await bench.ask_one(run, GUARDED)
    assert (result.code, result.value) == (Code.AUDIT_UNAVAILABLE, None)


async def test_the_queue_goes_away_while_an_approval_is_used(bench: DeskBench) -> None:
    """Nothing is released; the same entry, claimed again, is."""
    run = bench.run()
    await granted(bench, run)
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 60_000)
    entry = bench.entry(run, None, GUARDED)
    calls = 0

    def fail_second() -> None:
        nonlocal calls
        calls += 1
        bench.admission.is_away = calls == 2

    bench.admission.before = fail_second
    with pytest.raises(QueueError):
        await bench.serve(entry)
    bench.admission.before = lambda: None
    bench.admission.is_away = False
    (answer,) = (await bench.serve(entry)).answers
    assert run.open(answer.envelope).results[0].value == b"value of anthropic"


async def test_a_request_that_was_claimed_after_its_approval_was_used_goes_on(bench: DeskBench) -> None:
    """A worker died between the use and the release: the same entry is served, and nobody is asked again."""
    run = bench.run()
    await granted(bench, run)
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.affairs.unpublished.clear()
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 60_000)
    entry = bench.entry(run, None, GUARDED)
    for _ in range(2):
        (answer,) = (await bench.serve(entry)).answers
        assert run.open(answer.envelope).results[0].value == b"value of anthropic"
    assert asked(bench) == []


@pytest.mark.parametrize("forgets", ["queue", "file"])
async def test_a_single_use_is_single_whoever_forgets(bench: DeskBench, forgets: str) -> None:
    """The queue's mark and the broker's own file each suffice."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    assert (await bench.ask_one(run, GUARDED)).outcome == "granted"
    if forgets == "queue":
        bench.admission.forget()
    else:
        bench.once.uses.clear()
    again = await bench.ask_one(run, GUARDED)
    assert (again.outcome, again.value) == ("refused", None)


async def test_a_replay_asks_nobody(bench: DeskBench) -> None:
    """A copy of a request under another entry id is refused before people hear of it."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    raw = run.sealed("openai.api_key", GUARDED)
    await bench.serve(bench.entry(run, raw))
    bench.affairs.unpublished.clear()
    await bench.serve(bench.entry(run, raw))
    assert asked(bench) == []


@pytest.mark.parametrize("change", ["purpose", "run", "agent", "name", "policy", "key"])
async def test_what_was_approved_is_what_is_released(tmp_path: Path, change: str) -> None:
    """One that differs in anything needs an approval of its own."""
    bench = bench_with(tmp_path, "run")
    run = bench.run(run_id="run-1")
    await bench.ask(run, GUARDED, purpose="deploy")
    decide(bench, asked(bench)[0])
    assert (await bench.ask_one(run, GUARDED, purpose="deploy")).outcome == "granted"
    asks: dict[str, Any] = {"purpose": "deploy"}
    if change == "purpose":
        asks["purpose"] = "deploy!"
    elif change in ("run", "key"):
        run = bench.run(run_id="run-2" if change == "run" else "run-1")
    elif change == "agent":
        run = bench.run("codex")
    elif change == "policy":
        bench.load(policy=POLICY % "run" + "      grok: {allow: []}\n")
    name = "openai.api_key" if change == "name" else GUARDED
    result = await bench.ask_one(run, name, **asks)
    if change == "name":
        assert result.outcome == "granted"
        assert bench.sink.records[-1].approval_id is None
    else:
        assert result.code == (Code.DENIED if change == "agent" else Code.APPROVAL_PENDING)


async def test_nothing_guarded_leaves_while_its_vault_is_asked_and_the_approval_ends(tmp_path: Path) -> None:
    """A grant of a minute, a vault that takes longer: the value came too late."""
    bench = bench_with(tmp_path, "1m")
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    entry = bench.entry(run, None, GUARDED, life=120_000)
    served = await bench.serve(entry)
    assert len(served.waiting) == 1
    bench.clock.time += 61_000
    (answer,) = await bench.finish(served)
    assert run.open(answer.envelope).results[0].code == Code.APPROVAL_EXPIRED


# --- leases ------------------------------------------------------------------------------------------------------


async def test_a_run_that_asks_again_uses_its_lease(bench: DeskBench) -> None:
    """Another run has one of its own."""
    run, other = bench.run(), bench.run()
    first, again, theirs = [await granted(bench, each) for each in (run, run, other)]
    assert first.lease == again.lease != theirs.lease
    assert [r.uses for r in bench.sink.of("access")] == [1, 2, 1]
    assert len({r.lease_id for r in bench.sink.of("access")}) == 2


async def test_a_lease_is_renewed_to_its_hard_end_and_no_further(bench: DeskBench) -> None:
    """Each time by the value's own time to live."""
    run = bench.run()
    first = await granted(bench, run)
    assert first.lease is not None
    assert first.expires_at is not None
    ends: list[int] = []
    expires = first.expires_at
    while True:
        bench.clock.time = expires - 1
        reply = await bench.ask(run, body=Renew(first.lease))
        if reply.results[0].code is not None:
            break
        (renewed,) = reply.results
        assert renewed.value is None
        assert renewed.expires_at is not None
        ends.append(renewed.expires_at)
        if renewed.expires_at == expires:
            break
        expires = renewed.expires_at
    assert max(ends) == NOW + 3_600_000


@pytest.mark.parametrize("body", [Renew, Release])
async def test_only_the_holder_can_renew_or_give_back(bench: DeskBench, body: Any) -> None:
    """Not another run, not another agent, and not a token that somebody changed."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    for who, token in (
        (bench.run(), lease),
        (bench.run("codex"), lease),
        (run, lease[:-1] + b"\x7f"),
        (run, bytes(17)),
    ):
        assert (await bench.ask(who, body=body(token))).code == Code.INVALID


async def test_a_lease_that_was_given_back_is_over(bench: DeskBench) -> None:
    """The next value comes under another lease."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    assert (await bench.ask(run, body=Release(lease))).status == "ok"
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.EXPIRED
    assert (await granted(bench, run)).lease != lease


async def test_a_lease_of_a_version_that_was_replaced_is_not_renewed(bench: DeskBench) -> None:
    """The run asks for the new one."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    bench.desk.keep("local://openai", Fetched(b"newer", "8"), 60_000)
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.EXPIRED
    assert bench.sink.records[-1].reason == "superseded"


async def test_what_the_policy_no_longer_allows_is_not_renewed(bench: DeskBench) -> None:
    """But it can be given back."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    bench.load(policy="agents: {claude: {allow: []}}\n")
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.DENIED
    assert (await bench.ask(run, body=Release(lease))).status == "ok"


async def test_a_vault_that_lent_a_value_is_told_when_its_lease_ends(bench: DeskBench) -> None:
    """By its time, or before."""
    run = bench.run()
    for ends in ("time", "revocation"):
        bench.desk.keep("local://openai", Fetched(b"made for us", "7", f"upstream-{ends}"), 60_000)
        await granted(bench, run)
        if ends == "revocation":
            revoke(bench, order("agent", "claude"))
        else:
            bench.clock.time += 300_000
            bench.affairs.poll(bench.desk.configuration, bench.desk.session, bench.clock.now())
            bench.cache.clear()
    assert bench.jobs.jobs == [
        ("revoke_upstream", {"scheme": "local", "upstream_lease": f"upstream-{ends}"})
        for ends in ("time", "revocation")
    ]


# --- revocations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "agent", "token", "secret", "lease"])
async def test_who_holds_what_was_revoked_is_told(bench: DeskBench, kind: Kind) -> None:
    """And nobody else; the order is kept in the broker's own file."""
    run, other = bench.run(run_id="run-1"), bench.run("codex")
    result = await granted(bench, run)
    await granted(bench, other)
    record = bench.sink.of("access")[0]
    subjects: dict[str, str | None] = {
        "run": "claude/run-1",
        "agent": "claude",
        "token": record.token_id,
        "secret": "openai.api_key",
        "lease": record.lease_id,
    }
    letters = revoke(bench, order(kind, subjects[kind] or ""))
    mine = [letter for letter in letters if letter.reply_stream == run.channel.replies]
    assert len(letters) == (2 if kind == "secret" else 1)
    told = notice(run, mine[0])
    if kind in ("secret", "lease"):
        assert result.lease is not None
        assert (told.event, told.name, told.lease_id) == ("lease_revoked", "openai.api_key", result.lease[:16])
    else:
        assert told.event == "run_revoked"
    assert len(bench.orders.kept) == 1


async def test_a_revocation_holds_although_the_audit_is_full(bench: DeskBench) -> None:
    """It must not wait for a disk."""
    run = bench.run()
    await granted(bench, run)
    bench.sink.is_full = True
    revoke(bench, order("agent", "claude"))
    bench.sink.is_full = False
    assert (await bench.ask(run, "openai.api_key")).code == Code.REVOKED


async def test_an_order_of_somebody_else_is_recorded_and_not_obeyed(bench: DeskBench) -> None:
    """Signed with another key than the operator's."""
    run = bench.run()
    forged = sign_revocation(order("agent", "claude"), ALICE + run_public_key(ALICE))
    desk = bench.desk
    bench.affairs.take_control(revocation_message(forged), desk.configuration, desk.session, NOW)
    assert [r.reason for r in bench.sink.of("decision_refused")] == ["forged"]
    await granted(bench, run)


async def test_only_the_version_that_was_revoked_is_refused(bench: DeskBench) -> None:
    """The next version of the same secret is served."""
    run = bench.run()
    await granted(bench, run)
    revoke(bench, order("secret", "openai.api_key", version="7"))
    assert (await bench.ask_one(run, "openai.api_key")).code == Code.REVOKED
    bench.desk.keep("local://openai", Fetched(b"newer", "8"), 60_000)
    assert (await granted(bench, run)).value == b"newer"


async def test_what_is_revoked_and_not_allowed_looks_denied(bench: DeskBench) -> None:
    """A revocation tells nobody that a secret exists who may not know it."""
    revoke(bench, order("secret", "github.read_token"))
    result = await bench.ask_one(bench.run(), "github.read_token")
    assert result.code == Code.DENIED


async def test_a_lease_that_is_revoked_while_the_queue_counts_is_not_released_any_more(bench: DeskBench) -> None:
    """The order arrives between the question to the queue and its answer."""
    run = bench.run()
    await granted(bench, run)
    bench.admission.before = lambda: revoke(bench, order("agent", "claude"))
    reply = await bench.ask(run, body=Resolve(("openai.api_key",)))
    assert reply.code == Code.REVOKED
