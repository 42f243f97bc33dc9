"""How many approvals a run may have waiting, at the desk: what the queue says, what this worker knows, and faults."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench, Run
from people_desk import GUARDED, asked, bench_with, decide, notice, order, revoke

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from broker_worker.core.errors import QueueError
from broker_worker.pipeline.open_approvals import UNPUBLISHED_MS

LIMIT = 5
LATER = NOW + 600_000


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names."""
    return bench_with(tmp_path, "once")


def others(bench: DeskBench, run: Run, count: int, until: int = LATER) -> None:
    """What other workers had the queue count for a run."""
    key = keynames.open_approvals("claude", run.credential.run_id)
    bench.admission.open[key] = {f"{number:016x}": until for number in range(count)}


async def codes(bench: DeskBench, run: Run, *purposes: str) -> list[Code | None]:
    return [(await bench.ask_one(run, GUARDED, purpose=purpose)).code for purpose in purposes]


async def test_what_other_workers_opened_counts(bench: DeskBench) -> None:
    """The worker itself knows of none; nobody is asked, and the audit says why the run was refused."""
    run = bench.run()
    others(bench, run, LIMIT)
    assert await codes(bench, run, "a") == [Code.RATE_LIMITED]
    assert asked(bench) == []
    assert list(bench.affairs.approvals.book) == []
    assert bench.sink.of("approval_requested") == []
    assert bench.sink.of("access")[-1].reason == "too_many_open_approvals"
    assert bench.sink.of("access")[-1].approval_id is None
    others(bench, run, LIMIT - 1)
    assert await codes(bench, run, "a", "b") == [Code.APPROVAL_PENDING, Code.RATE_LIMITED]


async def test_another_runs_approvals_do_not_count(bench: DeskBench) -> None:
    """Each run has its own."""
    run, other = bench.run(), bench.run()
    others(bench, other, LIMIT)
    assert await codes(bench, run, "a") == [Code.APPROVAL_PENDING]


async def test_requests_of_one_batch_are_counted_one_after_the_other(bench: DeskBench) -> None:
    """Those that came first are asked; of each run as many as there is room for."""
    run, other = bench.run(), bench.run()
    others(bench, run, LIMIT - 2)
    await bench.ask(run, "openai.api_key")
    await bench.ask(other, "openai.api_key")
    entries = [bench.entry(each, None, GUARDED, purpose=f"{n}") for n in range(3) for each in (run, other)]
    served = await bench.serve(*entries)
    told = {answer.entry.entry_id: answer for answer in served.answers}
    got = [
        (each, each.open(told[entry.entry_id].envelope)) for each, entry in zip([run, other] * 3, entries, strict=True)
    ]
    of_run = [reply.results[0].code for each, reply in got if each is run]
    assert of_run == [Code.APPROVAL_PENDING, Code.APPROVAL_PENDING, Code.RATE_LIMITED]
    assert [reply.results[0].code for each, reply in got if each is other] == [Code.APPROVAL_PENDING] * 3
    assert [request.purpose for request in asked(bench) if request.run_id == run.credential.run_id] == ["0", "1"]


async def test_a_queue_that_forgets_what_it_counted_opens_no_more_at_this_worker(bench: DeskBench) -> None:
    """Its own book is the second bound."""
    run = bench.run()
    assert await codes(bench, run, *"abcde") == [Code.APPROVAL_PENDING] * LIMIT
    bench.admission.forget()
    assert await codes(bench, run, "f") == [Code.RATE_LIMITED]
    assert len(asked(bench)) == LIMIT


async def test_what_stands_on_the_queue_is_counted_again_by_whoever_asks_next(bench: DeskBench) -> None:
    """Another worker's question, which this one read, counts although the queue forgot that."""
    run = bench.run()
    await codes(bench, run, "a")
    (request,) = asked(bench)
    bench.affairs.take_request(bench.affairs.signed(request), bench.clock.now())
    bench.admission.forget()
    await codes(bench, run, "b")
    (counted,) = bench.admission.open.values()
    assert counted == {request.approval_id: request.expires_at, asked(bench)[1].approval_id: NOW + UNPUBLISHED_MS}


async def test_a_queue_that_goes_away_while_it_counts_has_nobody_asked(bench: DeskBench) -> None:
    """Nothing is answered; the same entry, claimed again, asks once."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    entry, count = bench.entry(run, None, GUARDED), bench.admission.open_approvals

    async def fail(_: object) -> list[int]:
        raise QueueError("the connection to the queue broke")

    bench.admission.open_approvals = fail  # type: ignore[method-assign,assignment]  # a fault is put in its place
    with pytest.raises(QueueError):
        await bench.serve(entry)
    assert asked(bench) == []
    assert list(bench.affairs.approvals.book) == []
    bench.admission.open_approvals = count  # type: ignore[method-assign]  # mended
    (answer,) = (await bench.serve(entry)).answers
    assert run.open(answer.envelope).results[0].code == Code.APPROVAL_PENDING
    assert len(asked(bench)) == 1


async def test_an_order_that_comes_while_the_queue_counts_is_obeyed(bench: DeskBench) -> None:
    """What else the request asks for is not released on what was decided before."""
    run = bench.run(run_id="run-1")
    await bench.ask(run, "openai.api_key")
    count = bench.admission.open_approvals

    async def revoking(asks: object) -> list[int]:
        revoke(bench, order("run", "claude/run-1"))
        return await count(asks)  # type: ignore[arg-type]  # handed on

    bench.admission.open_approvals = revoking  # type: ignore[method-assign]  # something happens meanwhile
    reply = await bench.ask(run, "openai.api_key", GUARDED)
    assert reply.code == Code.REVOKED
    assert reply.results == ()


@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_what_was_decided_is_counted_no_more(bench: DeskBench, verdict: str) -> None:
    """As soon as this worker knows, whoever records it."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    decide(bench, request, verdict)
    closed = bench.affairs.approvals.waiting.closed
    assert closed == {request.approval_id: keynames.open_approvals("claude", run.credential.run_id)}


async def test_what_was_settled_before_a_restart_is_counted_no_more(bench: DeskBench) -> None:
    """The worker may have died before it told the queue, which would count it until its end, perhaps a day."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    decide(bench, request, "deny")
    closed = bench.affairs.approvals.waiting.closed
    closed.clear()
    for later in (0, LATER - NOW):
        bench.affairs.take_request(bench.affairs.signed(request), NOW + later)
        assert list(closed) == ([] if later else [request.approval_id])
        closed.clear()


async def test_a_question_that_could_not_be_shown_is_void_whenever_that_can_be_recorded(bench: DeskBench) -> None:
    """Nobody is asked it any more, also while the disk is full; then its run is told, and may ask anew."""
    run, desk = bench.run(), bench.desk
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    bench.sink.is_full = True
    bench.affairs.give_up(request)
    assert bench.affairs.poll(desk.configuration, bench.clock.now()) == []
    assert asked(bench) == []
    bench.sink.is_full = False
    (letter,) = bench.affairs.poll(desk.configuration, bench.clock.now())
    assert (notice(run, letter).event, notice(run, letter).approval) == ("approval_settled", request.digest()[:8])
    assert [record.reason for record in bench.sink.of("approval_settled")] == ["void"]
    decide(bench, request)
    bench.clock.time += 1
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    assert request not in asked(bench)


async def test_what_could_not_be_recorded_is_counted_no_more(bench: DeskBench) -> None:
    """A full disk does not use up what a run may ask."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.sink.is_full = True
    await bench.ask(run, GUARDED)
    assert len(bench.affairs.approvals.waiting.closed) == 1


@pytest.mark.parametrize(
    "subject", [("run", "claude/run-1"), ("agent", "claude"), ("secret", GUARDED)], ids=lambda each: str(each[0])
)
async def test_what_is_refused_by_now_is_void(bench: DeskBench, subject: tuple[str, str]) -> None:
    """People need not decide it, the run is told, and after it was reinstated people are asked anew."""
    run = bench.run(run_id="run-1")
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    kind, name = subject
    revoke(bench, order(kind, name))  # type: ignore[arg-type]  # a table of kinds
    desk = bench.desk
    letters = bench.affairs.poll(desk.configuration, bench.clock.now())
    assert len(letters) == 1
    assert [record.reason for record in bench.sink.of("approval_settled")] == ["void"]
    assert request.approval_id in bench.affairs.approvals.waiting.closed
    revoke(bench, order(kind, name, order="reinstate", at=NOW + 1))  # type: ignore[arg-type]  # a table of kinds
    decide(bench, request)
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    (new,) = asked(bench)
    assert new != request
