"""A request id that an agent uses twice does not stand for what was written first."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Put


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


async def test_an_id_used_for_another_value_is_another_write(bench: DeskBench) -> None:
    """Nobody is told that a value is stored which never was."""
    run, same = bench.run(), bytes([7]) * 16
    first, second = Put("made.one", b"value one"), Put("made.one", b"value two")
    assert (await ask(bench, run, first, bench.entry(run, None, body=first, request_id=same))).outcome == "granted"
    bench.clock.time = NOW + 60_000
    answer = await ask(bench, run, second, bench.entry(run, None, body=second, request_id=same))
    assert (answer.outcome, answer.code) == ("refused", Code.CONFLICT)
    assert bench.vault.values["local://agents.made.one"] == b"value one"


async def test_an_id_of_another_run_s_is_no_write_of_one_s_own(bench: DeskBench) -> None:
    """Whoever chooses the id that another run chose is told nothing of what that one wrote."""
    same, body = bytes([7]) * 16, Put("made.one", b"value one")
    for outcome in ("granted", "refused"):
        run = bench.run()
        bench.clock.time += 60_000
        answer = await ask(bench, run, body, bench.entry(run, None, body=body, request_id=same))
        assert answer.outcome == outcome


async def test_a_generated_value_is_not_made_twice_for_one_request(bench: DeskBench) -> None:
    """Its answer was lost, and the same entry is claimed again: the version is told, and no second one is made."""
    run = bench.run()
    body = Generate("made.one", "hex:32")
    entry = bench.entry(run, None, body=body)
    assert [(await ask(bench, run, body, entry)).version for _ in range(2)] == ["1", "1"]
    assert len(bench.vault.writes) == 1
