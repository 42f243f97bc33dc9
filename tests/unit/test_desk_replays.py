"""A copy of a request gets no reply: one that says "replay" could overtake the one that the request is owed."""

from pathlib import Path
from typing import Any

import pytest
from desk_workbench import DeskBench

from broker_worker.ports import Fetched


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
