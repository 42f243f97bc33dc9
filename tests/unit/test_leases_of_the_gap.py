"""Leases of an older value that were opened after a write and before its worker heard of it."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.messages import Renew
from broker_worker.ports import Fetched, WriteNote
from broker_worker.state.write_file import WriteFile


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


async def test_a_lease_opened_before_the_worker_heard_is_superseded(bench: DeskBench) -> None:
    """Its holder is told, and it is not renewed."""
    run, log = bench.run("codex"), bench.write_log
    bench.desk.keep("local://openai", Fetched(b"old value", "7"), 600_000)
    other = WriteFile(log._path, bench.clock.now)
    other.note([WriteNote("ab" * 16, "written", "openai.api_key", "local://openai", NOW, version="8")])
    bench.clock.time += 100
    held = await bench.ask_one(run, "openai.api_key")
    assert (held.value, held.version) == (b"old value", "7")
    bench.clock.time += 100
    assert len(bench.writer.poll()) == 1
    assert held.lease is not None
    assert (await ask(bench, run, Renew(held.lease))).outcome == "refused"
