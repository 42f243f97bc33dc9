"""What the desk refuses, what it says of it, and that a port which fails never lets anything through."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, POLICY, DeskBench, Run

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Operation, Put
from broker_worker.core.errors import AuditError, FailureKind, ProviderError, QueueError
from broker_worker.ports import Entry

TIGHT = POLICY + "    limits:\n      {what}: {{rate: 6/m, burst: 3}}\n"


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    return DeskBench(tmp_path)


async def code_of(bench: DeskBench, run: Run, *names: str, **arguments: Any) -> Code | None:
    """What a run is told of its first name, or of its request."""
    reply = await bench.ask(run, *(names or ("openai.api_key",)), **arguments)
    return reply.code or (reply.results[0].code if reply.results else None)


# --- policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant", "mint", "asked", "reason"),
    [
        ("{secret: openai.api_key, purpose: required}", {}, {}, "purpose_required"),
        ("{secret: openai.api_key, purpose: required}", {}, {"purpose": " "}, "purpose_required"),
        ("{secret: openai.api_key, runs: [nightly-*]}", {"run_id": "daily-1"}, {}, "run_not_covered"),
        ("{secret: openai.api_key, not_after: 2020-01-01}", {}, {}, "grant_ended"),
        ("openai.api_key", {"scope": ["anthropic.*"]}, {}, "out_of_scope"),
        ("openai.api_key", {"scope": []}, {}, "out_of_scope"),
        ("github.read_token", {"scope": ["openai.*"]}, {}, "no_grant"),
    ],
)
async def test_a_condition_that_does_not_hold_is_a_denial(
    tmp_path: Path, grant: str, mint: dict[str, Any], asked: dict[str, Any], reason: str
) -> None:
    """The agent is told `denied`, the audit why; a scope narrows and never widens."""
    bench = DeskBench(tmp_path, policy=f"agents: {{claude: {{allow: [{grant}]}}}}")
    assert await code_of(bench, bench.run(**mint), **asked) == Code.DENIED
    assert [record.reason for record in bench.sink.records] == [reason]


async def test_a_condition_that_holds_grants(tmp_path: Path) -> None:
    """The same conditions, met."""
    grant = "{secret: openai.api_key, purpose: required, runs: [nightly-*], not_after: 2099-01-01}"
    bench = DeskBench(tmp_path, policy=f"agents: {{claude: {{allow: [{grant}]}}}}")
    run = bench.run(run_id="nightly-1", scope=["openai.*"])
    assert await code_of(bench, run, purpose="nightly report") is None


@pytest.mark.parametrize(
    "body",
    [
        Put("openai.api_key", b"mine"),
        Generate("openai.api_key", "hex"),
    ],
    ids=lambda body: type(body).__name__,
)
async def test_reading_does_not_imply_writing(bench: DeskBench, body: Operation) -> None:
    """An entry for reading lets nobody write."""
    assert await code_of(bench, bench.run(), body=body) == Code.DENIED
    assert [(r.event, r.reason) for r in bench.sink.records] == [("access", "action_not_granted")]


# --- limits ------------------------------------------------------------------------------------------------------


async def test_each_limit_says_truly_when_to_come_back(tmp_path: Path) -> None:
    """One ms before that time it is still refused, at that time it is granted: for agent, run and secret."""
    for what in ("agent", "run", "secret"):
        bench = DeskBench(tmp_path, policy=TIGHT.format(what=what))
        run = bench.run()
        for _ in range(3):
            assert await code_of(bench, run) is None
        reply = await bench.ask(run, "openai.api_key")
        wait = reply.retry_after or reply.results[0].retry_after
        assert wait == 10_000, what
        bench.clock.time += wait - 1
        assert await code_of(bench, run) == Code.RATE_LIMITED
        bench.clock.time += 1
        assert await code_of(bench, run) is None


async def test_a_limit_counts_for_its_own_only(tmp_path: Path) -> None:
    """A run's limit leaves other runs alone, an agent's other agents, a grant's other secrets."""
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="run"))
    used, fresh = bench.run(run_id="run-1"), bench.run(run_id="run-2")
    assert [await code_of(bench, used) for _ in range(4)][-1] == Code.RATE_LIMITED
    assert await code_of(bench, fresh) is None
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="agent"))
    claude, again, codex = bench.run(run_id="run-1"), bench.run(run_id="run-2"), bench.run("codex")
    assert [await code_of(bench, claude) for _ in range(4)][-1] == Code.RATE_LIMITED
    assert await code_of(bench, again) == Code.RATE_LIMITED
    assert await code_of(bench, codex) is None
    policy = "agents: {claude: {allow: [{secret: openai.api_key, rate: {rate: 6/m, burst: 1}}, anthropic.api_key]}}"
    bench = DeskBench(tmp_path, policy=policy)
    run = bench.run()
    reply = [await bench.ask(run, "openai.api_key", "anthropic.api_key") for _ in range(2)][-1]
    assert [result.code for result in reply.results] == [Code.RATE_LIMITED, None]


async def test_every_name_counts_and_names_that_are_denied_as_well(tmp_path: Path) -> None:
    """Guessing names uses up the guesser's own limit, and nobody else's."""
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="agent"))
    script = bench.run("random-script")
    assert await code_of(bench, script, "a", "b", "c") == Code.DENIED
    assert await code_of(bench, script, "d") == Code.RATE_LIMITED
    assert await code_of(bench, bench.run()) is None


async def test_guessing_does_not_use_up_the_limit_of_a_secret(tmp_path: Path) -> None:
    """Only who may have a secret counts against it."""
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="secret"))
    script = bench.run("random-script")
    for _ in range(10):
        assert await code_of(bench, script) == Code.DENIED
    assert await code_of(bench, bench.run()) is None


async def test_more_names_than_a_burst_are_too_many_and_not_merely_too_early(tmp_path: Path) -> None:
    """Waiting would never help, so the answer is `too_large`."""
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="agent"))
    reply = await bench.ask(bench.run(), "a", "b", "c", "d")
    assert (reply.code, reply.retry_after) == (Code.TOO_LARGE, None)
    assert bench.sink.records[0].reason == "more_names_than_burst"


async def test_a_flood_is_counted_and_not_written_line_by_line(tmp_path: Path) -> None:
    """The first refusal at once, then how many more there were; nothing is counted twice or forgotten."""
    bench = DeskBench(tmp_path, policy=TIGHT.format(what="agent"))
    run = bench.run()
    for _ in range(3 + 500):
        await bench.ask(run, "openai.api_key")
    refused = bench.sink.of("request_refused")
    assert [(record.reason, record.count) for record in refused] == [("over_limit", None)]
    bench.desk.tick()
    assert len(bench.sink.of("request_refused")) == 1
    bench.clock.time += 10_000
    bench.desk.tick()
    bench.desk.tick()
    assert [record.count for record in bench.sink.of("request_refused")] == [None, 499]


async def test_junk_is_counted_by_agent_and_reason(bench: DeskBench) -> None:
    """Every message that nobody can be held to is acknowledged, unanswered, and in a count."""
    run, script = bench.run(), bench.run("random-script")
    entries = [bench.entry(run, b"junk") for _ in range(50)] + [bench.entry(script, b"") for _ in range(7)]
    entries += [Entry("claude", b"9-%d" % number, b"", 0, fault="not_one_field") for number in range(5)]
    served = await bench.serve(*entries)
    assert [(answer.entry, answer.envelope) for answer in served.answers] == [(entry, None) for entry in entries]
    bench.desk.close()
    counts: dict[tuple[str | None, str | None], int] = {}
    for record in bench.sink.of("unauthenticated"):
        key = (record.agent_id, record.reason)
        counts[key] = counts.get(key, 0) + (record.count or 1)
    assert counts == {
        ("claude", "malformed"): 50,
        ("random-script", "malformed"): 7,
        ("claude", "not_one_field"): 5,
    }
    assert len(bench.sink.records) == 6


# --- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ({"issued_at": NOW - 20_000, "deadline": NOW}, Code.EXPIRED, "deadline_passed"),
        ({"issued_at": NOW - 20_000, "deadline": NOW - 1}, Code.EXPIRED, "deadline_passed"),
        ({"issued_at": NOW + 30_001, "deadline": NOW + 31_000}, Code.INVALID, "issued_in_the_future"),
        ({"issued_at": NOW, "deadline": NOW + 930_001}, Code.INVALID, "deadline_too_far"),
        ({"issued_at": NOW, "deadline": 2**53 - 1}, Code.INVALID, "deadline_too_far"),
    ],
)
async def test_a_time_that_cannot_be_meant_is_refused(
    bench: DeskBench, arguments: dict[str, int], code: Code, reason: str
) -> None:
    """With a code for the agent and a reason for the audit."""
    assert await code_of(bench, bench.run(), **arguments) == code
    assert [(record.event, record.reason) for record in bench.sink.records] == [("request_refused", reason)]


@pytest.mark.parametrize(("issued_at", "deadline"), [(-600_000, 60_000), (30_000, 60_000), (30_000, 930_000)])
async def test_clocks_may_differ_a_little(bench: DeskBench, issued_at: int, deadline: int) -> None:
    """An agent whose clock is ahead by the allowed skew, or whose request waited, is served."""
    assert await code_of(bench, bench.run(), issued_at=NOW + issued_at, deadline=NOW + deadline) is None


async def test_a_token_that_ends_while_its_run_goes_on_ends_the_service(bench: DeskBench) -> None:
    """Also for a peer that is well known."""
    run = bench.run(ttl=timedelta(seconds=60))
    assert await code_of(bench, run) is None
    bench.clock.time += 60_000 + 30_000
    assert await code_of(bench, run) == Code.EXPIRED
    assert bench.sink.records[-1].reason == "token_expired"


async def test_a_token_that_has_ended_gets_no_value_within_the_skew_either(bench: DeskBench) -> None:
    """A value never outlives its token, so there is none to hand out."""
    run = bench.run(ttl=timedelta(seconds=60))
    await bench.ask(run, "openai.api_key")
    bench.clock.time += 60_000
    assert await code_of(bench, run) == Code.EXPIRED
    assert bench.sink.records[-1].outcome == "refused"


async def test_a_value_that_comes_after_the_deadline_is_not_released(bench: DeskBench) -> None:
    """Nobody waits for it any more; it is in the cache for the next one."""
    run = bench.run()
    served = await bench.serve(bench.entry(run, None, "openai.api_key"))
    bench.clock.time += 15_000
    (answer,) = await bench.finish(served)
    assert run.open(answer.envelope).code == Code.EXPIRED
    assert [(r.outcome, r.reason) for r in bench.sink.records] == [("refused", "expired_while_waiting")]
    assert (await bench.ask_one(run, "openai.api_key")).source == "cache"


# --- what changes while a request waits --------------------------------------------------------------------------


async def test_a_policy_that_changed_while_a_request_waited_decides_again(bench: DeskBench) -> None:
    """What is no longer allowed is not released, though it was when it was asked for."""
    run = bench.run()
    served = await bench.serve(bench.entry(run, None, "openai.api_key", "anthropic.api_key"))
    bench.load(policy="agents: {claude: {allow: [anthropic.api_key]}}")
    (answer,) = await bench.finish(served)
    assert [result.outcome for result in run.open(answer.envelope).results] == ["refused", "granted"]
    assert [record.reason for record in bench.sink.records] == ["no_grant", None]


async def test_a_policy_that_changed_during_the_admission_decides_again(bench: DeskBench) -> None:
    """Also for what is in the cache."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.admission.before = lambda: bench.load(policy="agents: {claude: {allow: []}}")
    assert await code_of(bench, run) == Code.DENIED


async def test_a_reference_that_changed_while_a_request_waited_is_not_given_its_old_value(bench: DeskBench) -> None:
    """The value of the old reference is not the secret any more."""
    run = bench.run()
    served = await bench.serve(bench.entry(run, None, "openai.api_key"))
    bench.load(registry='secrets: {openai.api_key: "local://new", anthropic.api_key: "local://anthropic"}')
    (answer,) = await bench.finish(served)
    assert run.open(answer.envelope).results[0].value is None


async def test_an_issuer_that_was_removed_while_a_request_waited_stops_it(bench: DeskBench) -> None:
    """Its tokens count no more, at once."""
    run = bench.run()
    served = await bench.serve(bench.entry(run, None, "openai.api_key"))
    bench.load(issuer_seed=bytes([9]) * 32)
    (answer,) = await bench.finish(served)
    reply = run.open(answer.envelope)
    assert (reply.code, reply.results) == (Code.UNAUTHENTICATED, ())
    assert all(record.outcome == "refused" for record in bench.sink.records)


async def test_an_issuer_that_was_removed_during_the_admission_stops_it(bench: DeskBench) -> None:
    """Also for what is in the cache."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.admission.before = lambda: bench.load(issuer_seed=bytes([9]) * 32)
    assert await code_of(bench, run) == Code.UNAUTHENTICATED


async def test_tokens_of_a_removed_issuer_stop_at_once(bench: DeskBench) -> None:
    """A peer that was verified before is verified again."""
    run = bench.run()
    assert await code_of(bench, run) is None
    bench.load(issuer_seed=bytes([9]) * 32)
    assert await code_of(bench, run) == Code.UNAUTHENTICATED
    bench.load()
    assert await code_of(bench, run) is None


# --- ports that fail ---------------------------------------------------------------------------------------------


async def test_no_record_no_release(bench: DeskBench) -> None:
    """While the audit cannot be written the answer is `audit_unavailable`; when it can, all is as before."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.sink.is_full = True
    for names in (("openai.api_key",), ("anthropic.api_key",), ()):
        reply = await bench.ask(run, *names)
        assert (reply.code, reply.results, reply.names) == (Code.AUDIT_UNAVAILABLE, (), ())
    bench.sink.is_full = False
    assert (await bench.ask_one(run, "openai.api_key")).value == b"value of openai"


async def test_counts_that_could_not_be_written_are_written_when_the_disk_is_back(bench: DeskBench) -> None:
    """A full disk hides no flood: the numbers come right in the end."""
    run = bench.run()
    bench.sink.is_full = True
    await bench.serve(*[bench.entry(run, b"junk") for _ in range(20)])
    bench.clock.time += 10_000
    with pytest.raises(AuditError):
        bench.desk.tick()
    bench.sink.is_full = False
    await bench.serve(*[bench.entry(run, b"junk") for _ in range(5)])
    bench.desk.close()
    assert sum(record.count or 1 for record in bench.sink.of("unauthenticated")) == 25


async def test_an_admission_that_fails_releases_nothing_and_loses_nothing(bench: DeskBench) -> None:
    """The caller learns of it; the same entry is served when the queue is back."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    entry = bench.entry(run, None, "openai.api_key")
    bench.admission.is_away = True
    with pytest.raises(QueueError):
        await bench.serve(entry)
    assert len(bench.sink.records) == 1
    bench.admission.is_away = False
    (answer,) = (await bench.serve(entry)).answers
    assert run.open(answer.envelope).status == "ok"


@pytest.mark.parametrize("kind", list(FailureKind))
async def test_a_vault_that_fails_is_unavailable_and_the_audit_says_why(bench: DeskBench, kind: FailureKind) -> None:
    """Whatever the reason, the agent learns no more than when to ask again."""
    run = bench.run()
    bench.vault.values["local://openai"] = ProviderError(kind, "made up", retry_after=1234)
    reply = await bench.ask(run, "openai.api_key", "anthropic.api_key")
    assert [(r.code, r.retry_after) for r in reply.results] == [(Code.UNAVAILABLE, 1234), (None, None)]
    assert [record.reason for record in bench.sink.records] == [f"provider_{kind}", None]
