"""A copy of a request gets no reply: one that says "replay" could overtake the one that the request is owed."""

from pathlib import Path
from typing import Any

import pytest
from desk_workbench import DeskBench

from broker_worker.ports import Fetched, Verdict


class Forgetful(dict[Any, Any]):
    """Replay marks that are lost as soon as they are made."""

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return default


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_copy_under_another_entry_id_is_refused_and_not_answered(tmp_path: Path, forgets: bool) -> None:
    """While the first copy waits for its vault, the second one is acknowledged, recorded and gets no reply."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    if forgets:
        bench.admission._seen = Forgetful()
    raw = run.sealed("openai.api_key")
    await bench.ask(run)  # the run is known from now on
    first, copy = bench.entry(run, raw), bench.entry(run, raw)
    served = await bench.desk.serve(bench.desk.open([first, copy]), bench.admission)
    assert [(answer.entry, answer.envelope) for answer in served.answers] == [(copy, None)]
    assert "replay" in {record.reason for record in bench.sink.records}
    (waiting,) = served.waiting
    waiting.found["local://openai"] = Fetched(b"made-up value")
    (answer,) = await bench.desk.resume([waiting], bench.admission)
    assert answer.entry is first
    assert run.open(answer.envelope).status == "ok"


async def test_a_copy_that_another_worker_answered_is_refused_beside_a_good_request(tmp_path: Path) -> None:
    """Only the queue knows of it, and one good request in the batch does not carry it through."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    await bench.ask(run)  # the run is known from now on
    copy, good = bench.entry(run, None, "openai.api_key"), bench.entry(run, None, "anthropic.api_key")
    mark = bench.admission._verdict
    bench.admission._verdict = lambda ask: (  # type: ignore[method-assign]  # a queue that says so
        Verdict(replay=True) if ask.entry_id == copy.entry_id else mark(ask)
    )
    served = await bench.desk.serve(bench.desk.open([copy, good]), bench.admission)
    assert [(answer.entry, answer.envelope) for answer in served.answers] == [(copy, None)]
    assert [waiting.ask.entry for waiting in served.waiting] == [good]


async def test_what_left_no_mark_is_not_answered(tmp_path: Path) -> None:
    """Else a later copy could be answered in another way. It is recorded, and a copy is no sign of a false queue."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    await bench.ask(run)  # the run is known from now on
    raw = run.sealed("openai.api_key")
    mark = bench.admission._verdict
    bench.admission._verdict = lambda ask: Verdict(replay=False, dropped=True)  # type: ignore[method-assign]  # a queue that says so
    served = await bench.serve(bench.entry(run, raw))
    assert [answer.envelope for answer in served.answers] == [None]
    assert [(record.code, record.reason) for record in bench.sink.of("request_refused")] == [("rate_limited", "flood")]
    bench.admission._verdict = mark  # type: ignore[method-assign]  # a queue that says so
    (answer,) = await bench.finish(await bench.serve(bench.entry(run, raw)))
    assert run.open(answer.envelope).status == "ok"
    assert not bench.sink.of("queue_distrusted")
