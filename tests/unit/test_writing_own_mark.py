"""A write whose end nobody saw is taken for no other write of the same run."""

from pathlib import Path

import pytest
from desk_workbench import DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Operation, Put
from broker_worker.core.errors import FailureKind, ProviderError


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


@pytest.mark.parametrize("second", [Put("made.key", b"value-B-222"), Generate("made.key", "hex:32")])
async def test_another_value_is_not_answered_as_stored(bench: DeskBench, second: Operation) -> None:
    """The first value was stored and its answer lost: the second write clashes with it."""
    run, real = bench.run(), bench.vault.put

    async def lost(ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        await real(ref, value, expected=expected)
        raise ProviderError(FailureKind.TIMEOUT, "no answer")

    bench.vault.put = lost  # type: ignore[method-assign]  # the vault stores, and does not say so
    assert (await ask(bench, run, Put("made.key", b"value-A-111"))).code == Code.UNAVAILABLE
    bench.vault.put = real  # type: ignore[method-assign]  # as above
    assert (await ask(bench, run, second)).code == Code.CONFLICT
    assert (await ask(bench, run, Put("made.key", b"value-A-111"))).outcome == "granted"


async def test_a_writer_whose_writes_end_unknown_learns_nothing_of_what_is_there(bench: DeskBench) -> None:
    """Somebody else's value is there, and each guess ends without an answer: none of them is confirmed afterwards."""
    bench.vault.values["local://agents.made.key"] = b"the pin is 4711"
    run = bench.run()
    bench.vault.write_failure = ProviderError(FailureKind.TIMEOUT, "no answer")
    guesses = [f"the pin is {number}".encode() for number in (4710, 4711, 4712)]
    for guess in guesses:
        assert (await ask(bench, run, Put("made.key", guess))).code == Code.UNAVAILABLE
    bench.vault.write_failure = None
    assert {(await ask(bench, run, Put("made.key", guess))).code for guess in guesses} == {Code.CONFLICT}
