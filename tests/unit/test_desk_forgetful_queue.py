"""A queue that forgets what it was told: replays are refused and limits hold by what the worker remembers itself."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from desk_workbench import IDENTITY, NOW, POLICY, DeskBench, Run

from agent_sdk.wire.errors import Code
from broker_worker.pipeline.session import start_session
from broker_worker.ports import AdmissionAsk, Verdict

TIGHT = POLICY + "    limits:\n      agent: {rate: 6/m, burst: 3}\n"


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    return DeskBench(tmp_path)


async def code_of(bench: DeskBench, run: Run) -> Code | None:
    """What a run is told of its request, or of the name in it."""
    reply = await bench.ask(run, "openai.api_key")
    return reply.code or (reply.results[0].code if reply.results else None)


async def test_a_replay_whose_mark_was_deleted_is_refused_and_reported(bench: DeskBench) -> None:
    """Deleting replay marks on the queue does not let a recorded request through again."""
    run = bench.run()
    envelope = run.sealed("openai.api_key")
    await bench.finish(await bench.serve(bench.entry(run, envelope)))
    bench.admission.forget()
    (answer,) = (await bench.serve(bench.entry(run, envelope))).answers
    assert answer.envelope is None
    assert [record.reason for record in bench.sink.of("queue_distrusted")] == ["replay_mark_lost"]
    assert [record.outcome for record in bench.sink.of("access")] == ["granted"]


async def test_an_id_that_its_run_uses_again_is_no_evidence_against_the_queue(bench: DeskBench) -> None:
    """With another deadline it is another request; no agent can make the queue look like a liar."""
    run = bench.run()
    for seconds in (15, 40):
        request_id, deadline = bytes(16), NOW + seconds * 1000
        entry = bench.entry(run, None, "openai.api_key", request_id=request_id, deadline=deadline)
        (answer,) = await bench.finish(await bench.serve(entry))
        assert run.open(answer.envelope).status == "ok"
    assert bench.sink.of("queue_distrusted") == []


async def test_the_same_entry_again_is_answered(bench: DeskBench) -> None:
    """What a dead worker left, or a lost acknowledgement, is no replay."""
    run = bench.run()
    entry = bench.entry(run, None, "openai.api_key")
    for _ in range(2):
        (answer,) = await bench.finish(await bench.serve(entry))
        assert run.open(answer.envelope).status == "ok"


async def test_limits_that_were_deleted_on_the_queue_still_hold(tmp_path: Path) -> None:
    """This worker has counted too; the disagreement is on record."""
    bench = DeskBench(tmp_path, policy=TIGHT)
    run, codes = bench.run(), []
    for _ in range(12):
        bench.admission.forget()
        codes.append(await code_of(bench, run))
    assert codes.count(None) == 3
    assert set(codes[3:]) == {Code.RATE_LIMITED}
    assert {record.reason for record in bench.sink.of("queue_distrusted")} == {"limit_state_lost"}


async def test_a_queue_that_forgets_and_answers_late_gets_nobody_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the worker knows by the end of a wait is no clock that was set back, and time goes on no faster by it."""
    bench = DeskBench(tmp_path, policy=TIGHT.replace("6/m", "1/m"))
    admit = bench.admission.admit

    async def admit_late(asks: Sequence[AdmissionAsk]) -> list[Verdict]:
        verdicts = await admit(asks)
        for _ in range(36):
            bench.clock.time += 250
            bench.desk.tick()
        return verdicts

    monkeypatch.setattr(bench.admission, "admit", admit_late)
    run, codes = bench.run(), []
    for _ in range(60):
        bench.admission.forget()
        codes.append(await code_of(bench, run))
    assert codes.count(None) <= 3 + 60 * 9 // 60 + 1


async def test_what_passes_while_nobody_asks_counts_although_the_clock_is_set_back(tmp_path: Path) -> None:
    """The worker looks at the clock by itself, so that only the step is not counted."""
    bench = DeskBench(tmp_path, policy=TIGHT)
    while await code_of(bench, bench.run()) is None:
        pass
    for _ in range(4 * 60):
        bench.clock.time += 250
        bench.desk.tick()
    bench.clock.set_back += 3_600_000
    bench.desk.session = start_session(IDENTITY, "worker-1", bench.clock.now(), bytes(range(32)))
    bench.admission.forget()
    assert await code_of(bench, bench.run()) is None
    assert bench.sink.of("queue_distrusted") == []


async def test_a_flood_against_a_queue_that_forgets_is_counted_too(tmp_path: Path) -> None:
    """Nobody can fill the disk with `queue_distrusted` lines either."""
    bench = DeskBench(tmp_path, policy=TIGHT)
    run = bench.run()
    for _ in range(200):
        bench.admission.forget()
        await bench.ask(run, "openai.api_key")
    assert len(bench.sink.records) < 10
    bench.desk.close()
    assert sum(record.count or 1 for record in bench.sink.of("queue_distrusted")) == 197
