"""News of an older write do not undo those of a newer one."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.messages import Renew
from broker_worker.ports import Fetched, WriteNote


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


async def test_an_older_write_that_is_told_late_changes_nothing(bench: DeskBench) -> None:
    """As a restarted worker hears it: its own file first, then the control stream from its beginning."""
    run, desk = bench.run("codex"), bench.desk
    desk.keep("local://openai", Fetched(b"value of version 7", "7"), 600_000)
    held = await bench.ask_one(run, "openai.api_key")
    for write_id, version, at in (("cd", "8", NOW + 2_000), ("ab", "7", NOW - 60_000)):
        note = WriteNote(write_id * 16, "written", "openai.api_key", "local://openai", at, version=version)
        bench.affairs.superseding.note(note, desk.configuration, NOW + 3_000)
    assert bench.affairs.leases.written_at("local://openai") == NOW + 2_000
    assert held.lease is not None
    assert (await ask(bench, run, Renew(held.lease))).outcome == "refused"
