"""A request id that an agent uses twice does not stand for what was written first."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.messages import Put


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


async def test_an_id_used_for_two_names_is_two_writes(bench: DeskBench) -> None:
    """After the first one's deadline nothing but the file of writes knows of it; the audit must not say `granted`."""
    run, same = bench.run(), bytes([7]) * 16
    await ask(bench, run, Put("made.one", b"value one"), bench.entry(
        run, None, body=Put("made.one", b"value one"), request_id=same))  # fmt: skip
    bench.clock.time = NOW + 60_000
    second = bench.entry(run, None, body=Put("made.two", b"value two"), request_id=same)
    assert (await ask(bench, run, Put("made.two", b"value two"), second)).outcome == "granted"
    assert bench.vault.values["local://agents.made.two"] == b"value two"
