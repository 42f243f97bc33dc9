"""Attacks on what people decide: by agents, by whoever owns the queue, by a dashboard that was taken over."""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import CONTROL_SEED, NOW, DeskBench, Run
from msgspec.structs import replace

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve, Result
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.approval_book import KEPT_MS, Matter
from broker_worker.core.approvals import ApprovalRequest, Decision, Ed25519Proof, sign_decision
from broker_worker.core.control import decision_message, revocation_message
from broker_worker.core.errors import SetupError
from broker_worker.core.revocations import Revocation, sign_revocation
from broker_worker.pipeline.letters import Letter
from broker_worker.ports import Fetched

ALICE, BOB = (bytes([n]) * 32 for n in (11, 12))
GUARDED = "anthropic.api_key"
POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - {secret: anthropic.api_key, approval: {approvers: [ops], ttl: 10m, grant: %s}}
      codex: {allow: [openai.api_key]}
"""
ONE_LINE = """
    agents:
      claude:
        allow: [{secret: anthropic.api_key, approval: {approvers: [bob]}}, \
{secret: github.read_token, approval: {approvers: [ops]}}]
"""


def bench_with(folder: Path, grant: str = "once", policy: str = POLICY) -> DeskBench:
    """A desk that asks people for one of claude's two names."""
    folder.mkdir(exist_ok=True)
    lines = ["approvers:"]
    for name, group, seed in (("alice", "ops", ALICE), ("bob", "interns", BOB)):
        public = base64.urlsafe_b64encode(run_public_key(seed)).decode().rstrip("=")
        lines.append(f"  - {{name: {name}, groups: [{group}], keys: [{{kind: ed25519, public_key: {public}}}]}}")
    (folder / "approvers.yaml").write_text("\n".join(lines) + "\n")
    return DeskBench(folder, policy=policy % grant if "%s" in policy else policy)


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk whose approvals are good once."""
    return bench_with(tmp_path)


def take(bench: DeskBench, decision: Decision) -> list[Letter]:
    """A decision arrives over the queue."""
    desk = bench.desk
    return bench.affairs.take_control(decision_message(decision), desk.configuration, bench.clock.now())


def signed(bench: DeskBench, request: ApprovalRequest, verdict: Any = "approve", who: str = "alice") -> Decision:
    """What a person decides now."""
    seed = {"alice": ALICE, "bob": BOB}[who]
    return sign_decision(request.digest(), verdict, who, bench.clock.now(), seed + run_public_key(seed))


def asked(bench: DeskBench) -> list[ApprovalRequest]:
    """What people are asked."""
    return list(bench.affairs.unpublished.values())


async def approved(bench: DeskBench, run: Run) -> ApprovalRequest:
    """A request for the guarded name that alice approved; its value is in the cache."""
    await bench.ask(run, GUARDED)
    request = asked(bench)[-1]
    take(bench, signed(bench, request))
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 600_000)
    return request


def order(kind: Any, subject: str, **other: Any) -> Revocation:
    """An operator's order."""
    values: dict[str, Any] = {"revocation_id": secrets.token_hex(8), "order": "revoke", "at": NOW}
    return Revocation(kind=kind, subject=subject, reason="leaked", by="olivia", **{**values, **other})


def junk_decision(digest: bytes) -> Decision:
    """A decision that nobody signed, about a request that nobody asked."""
    proof = Ed25519Proof(bytes(64))
    return Decision(request=digest, verdict="deny", approver="alice", decided_at=NOW, proof=proof)


def poll(bench: DeskBench) -> list[Letter]:
    """The worker looks at its files."""
    return bench.affairs.poll(bench.desk.configuration, bench.clock.now())


# --- who decides what --------------------------------------------------------------------------------------------


async def test_entries_on_one_line_are_decided_by_their_own_people(tmp_path: Path) -> None:
    """Who may approve the one does not approve the other by asking for both at once."""
    bench = bench_with(tmp_path, policy=ONE_LINE)
    run = bench.run()
    await bench.ask(run, GUARDED, "github.read_token")
    assert sorted((r.names, r.approvers) for r in asked(bench)) == [
        ((GUARDED,), ("bob",)),
        (("github.read_token",), ("ops",)),
    ]
    for request in asked(bench):
        take(bench, signed(bench, request, who="bob"))
    results = (await bench.ask(run, GUARDED, "github.read_token")).results
    assert [result.outcome for result in results] == ["granted", "refused"]


async def test_an_approval_under_one_entry_does_not_hold_under_another_on_its_line(tmp_path: Path) -> None:
    """The first entry ends, the second asks other people for the same name."""
    policy = """
    agents:
      claude:
        allow: [{secret: anthropic.api_key, not_after: "2030-03-17T17:47:40Z", \
approval: {approvers: [bob], grant: run}}, {secret: anthropic.api_key, approval: {approvers: [ops]}}]
    """
    bench = bench_with(tmp_path, policy=policy)
    run = bench.run()
    await bench.ask(run, GUARDED)
    take(bench, signed(bench, asked(bench)[0], who="bob"))
    assert (await bench.ask_one(run, GUARDED)).outcome == "granted"
    bench.clock.time += 120_000
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING


# --- while something is waited for -------------------------------------------------------------------------------


def at_call(bench: DeskBench, number: int, what: Any) -> None:
    """Do something while the queue is asked for that time."""
    calls = 0

    def before() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            what()

    bench.admission.before = before


async def one(bench: DeskBench, run: Run, *names: str) -> Result:
    """The result for one name, if its value is in the cache or not."""
    (answer,) = await bench.finish(await bench.serve(bench.entry(run, None, *names, life=120_000)))
    return run.open(answer.envelope).results[0]


@pytest.mark.parametrize(("grant", "call"), [("once", 1), ("once", 2), ("15m", 1)])
async def test_a_denial_while_the_queue_is_asked_is_heard(tmp_path: Path, grant: str, call: int) -> None:
    """The person who approved takes it back before the value left."""
    bench = bench_with(tmp_path, grant)
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    request = await approved(bench, run)
    at_call(bench, call, lambda: take(bench, signed(bench, request, "deny")))
    result = await one(bench, run, GUARDED)
    assert (result.outcome, result.value) == ("refused", None)


@pytest.mark.parametrize("call", [1, 2])
async def test_an_approval_that_ends_while_the_queue_is_asked_serves_nothing(bench: DeskBench, call: int) -> None:
    """A queue that answers late does not make an approval longer."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    request = await approved(bench, run)
    bench.clock.time = request.expires_at - 10
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 600_000)
    at_call(bench, call, lambda: setattr(bench.clock, "time", request.expires_at))
    result = await one(bench, run, GUARDED)
    assert (result.outcome, result.value) == ("refused", None)


@pytest.mark.parametrize("name", ["openai.api_key", GUARDED])
async def test_what_is_revoked_while_the_other_lane_reads_is_not_released(bench: DeskBench, name: str) -> None:
    """The last wait before the release counts like the others."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    await approved(bench, run)

    async def before_release() -> None:
        bench.orders.new.append(order("agent", "claude"))
        poll(bench)

    served = await bench.desk.serve(bench.desk.open([bench.entry(run, None, name)]), bench.admission, before_release)
    reply = run.open(served.answers[0].envelope)
    assert (reply.status, reply.results[0].value if reply.results else None) == ("refused", None)
    after = bench.sink.records[[record.event for record in bench.sink.records].index("revoked") :]
    assert [record for record in after if record.outcome == "granted"] == []


async def test_a_denial_while_the_other_lane_reads_is_heard(bench: DeskBench) -> None:
    """Also after the approval was marked as used."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    request = await approved(bench, run)

    async def before_release() -> None:
        take(bench, signed(bench, request, "deny"))

    served = await bench.desk.serve(bench.desk.open([bench.entry(run, None, GUARDED)]), bench.admission, before_release)
    result = run.open(served.answers[0].envelope).results[0]
    assert (result.outcome, result.value) == ("refused", None)


async def test_who_gives_up_before_the_record_leaves_no_question_that_nobody_was_asked(bench: DeskBench) -> None:
    """Else the run would be told to wait for people who never heard of it."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")

    async def before_release() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await bench.desk.serve(bench.desk.open([bench.entry(run, None, GUARDED)]), bench.admission, before_release)
    assert list(bench.affairs.approvals.book) == []


# --- floods ------------------------------------------------------------------------------------------------------


async def test_junk_decisions_do_not_fill_the_audit(bench: DeskBench) -> None:
    """Each names another request; a dashboard that was taken over can write them without end."""
    for number in range(1000):
        take(bench, junk_decision(number.to_bytes(32, "little")))
    assert len(bench.sink.of("decision_refused")) <= 2


async def test_junk_decisions_do_not_have_everything_looked_at_again(bench: DeskBench) -> None:
    """A decision that changes nothing costs no look at what waits."""
    looked = 0

    def settle(*_: Any) -> Sequence[Letter]:
        nonlocal looked
        looked += 1
        return []

    bench.affairs.settle = settle  # type: ignore[method-assign,assignment]  # a fault is put in its place
    for number in range(10):
        take(bench, junk_decision(number.to_bytes(32, "little")))
    assert looked == 0


# --- restarts ----------------------------------------------------------------------------------------------------


def restarted(
    bench: DeskBench, folder: Path, raws: Sequence[bytes], decisions: Sequence[Decision], grant: str = "once"
) -> DeskBench:
    """Another process with the same files, which reads the same streams."""
    again = bench_with(folder, grant)
    again.clock.time = bench.clock.time
    for attribute in ("settled", "once"):
        getattr(again, attribute).uses.update(getattr(bench, attribute).uses)
    for raw in raws:
        again.affairs.take_request(raw, again.clock.now())
    for decision in decisions:
        take(again, decision)
    return again


@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_a_restart_tells_no_decision_twice(bench: DeskBench, tmp_path: Path, verdict: Any) -> None:
    """The audit says once what a person decided once."""
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    decision = signed(bench, request, verdict)
    take(bench, decision)
    assert len(bench.sink.of("approval_decided")) == 1
    again = restarted(bench, tmp_path / "again", [bench.affairs.signed(request)], [decision])
    poll(again)
    assert again.sink.of("approval_decided") == again.sink.of("approval_settled") == []


async def test_a_denial_that_came_while_no_worker_ran_is_recorded(bench: DeskBench, tmp_path: Path) -> None:
    """Although the request was settled before."""
    run = bench.run()
    request = await approved(bench, run)
    denial = signed(bench, request, "deny")
    again = restarted(bench, tmp_path / "again", [bench.affairs.signed(request)], [signed(bench, request), denial])
    assert [(r.outcome, r.approver) for r in again.sink.of("approval_decided")] == [("refused", "alice")]


@pytest.mark.parametrize("grant", ["once", "15m", "run"])
async def test_a_denial_holds_after_a_restart_although_the_queue_withholds_it(tmp_path: Path, grant: str) -> None:
    """Who approved and took that back has taken it back, also where the approval alone is shown again."""
    bench = bench_with(tmp_path, grant)
    run = bench.run()
    request = await approved(bench, run)
    take(bench, signed(bench, request, "deny"))
    again = restarted(bench, tmp_path / "again", [bench.affairs.signed(request)], [signed(bench, request)], grant)
    assert (await again.ask_one(run, GUARDED, purpose=request.purpose)).code == Code.APPROVAL_DENIED


async def test_an_old_request_that_is_shown_again_is_not_settled_again(bench: DeskBench, tmp_path: Path) -> None:
    """What was settled is remembered for a day; whoever owns the queue keeps its entries for longer."""
    request = await approved(bench, bench.run())
    bench.clock.time = request.expires_at + KEPT_MS
    bench.settled.uses.clear()
    again = restarted(bench, tmp_path / "again", [bench.affairs.signed(request)], [])
    assert poll(again) == []
    assert again.sink.of("approval_settled") == []


# --- revocations -------------------------------------------------------------------------------------------------


async def test_holders_are_told_although_the_audit_is_full_and_counts_are_due(bench: DeskBench) -> None:
    """The notice does not get lost with the record."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    for _ in range(2):
        bench.affairs.take_control(b"junk", bench.desk.configuration, bench.clock.now())
    bench.clock.time += 20_000
    bench.sink.is_full = True
    bench.orders.new.append(order("agent", "claude"))
    assert len(poll(bench)) == 1


async def test_an_order_that_is_shown_for_ever_is_kept_once_while_the_disk_is_full(bench: DeskBench) -> None:
    """The queue cannot fill the memory with what the operator signed once; when the disk is back, it is written."""
    secret = CONTROL_SEED + run_public_key(CONTROL_SEED)
    raw = revocation_message(sign_revocation(order("agent", "claude"), secret))

    def fail(_: bytes) -> bool:
        raise SetupError("No space left on device", hint="free some")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.orders, "append", fail)
        for _ in range(100):
            bench.affairs.take_control(raw, bench.desk.configuration, NOW)
    poll(bench)
    assert len(bench.orders.kept) == 1


async def test_one_order_that_cannot_be_carried_out_does_not_hold_up_the_next(bench: DeskBench) -> None:
    """All of them refuse, whatever goes wrong with telling."""
    bench.jobs.enqueue = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]  # a fault is put in its place
    run = bench.run()
    bench.desk.keep("local://openai", Fetched(b"made for us", "7", "upstream"), 60_000)
    await bench.ask(run, "openai.api_key")
    bench.orders.new += [order("agent", "claude"), order("agent", "codex")]
    with pytest.raises(ZeroDivisionError):
        poll(bench)
    assert (await bench.ask(bench.run("codex"), body=Resolve(("openai.api_key",)))).code == Code.REVOKED


# --- ends --------------------------------------------------------------------------------------------------------


async def test_nobody_is_asked_for_a_run_that_is_over(bench: DeskBench) -> None:
    """Within the skew a token that has ended still opens the door, but there is no time left to decide."""
    run = bench.run(ttl=timedelta(minutes=5))
    await bench.ask(run, "openai.api_key")
    bench.clock.time = run.credential.expires_at + 1
    result = await bench.ask_one(run, GUARDED)
    assert result.code == Code.EXPIRED
    assert asked(bench) == []


async def test_thousands_that_wait_cost_nothing_until_something_changes(bench: DeskBench) -> None:
    """Each is looked at when it was decided or its time is over, not four times a second."""
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    for number in range(300):
        other = replace(request, run_id=f"run-{number}", request_id=secrets.token_bytes(16))
        bench.affairs.take_request(bench.affairs.signed(other), bench.clock.now())
    poll(bench)
    looked = 0
    state = Matter.state

    def counted(*arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return state(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Matter, "state", counted)
        for _ in range(10):
            assert poll(bench) == []
        assert looked == 0
        assert len(take(bench, signed(bench, request))) == 1
        assert looked < 10
    bench.clock.time = request.expires_at
    told = [len(poll(bench)) for _ in range(12)]
    assert sum(told) == 300
    assert max(told) < 300
