"""Values that are made and shown with the answer: what a run that ends meanwhile is told, and what they count as."""

from pathlib import Path

import pytest
from writing_workbench import ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate
from broker_worker.core.limits import Rate, both

MADE = Generate("made.mine", "alnum:24", reveal=True)
RATED = """
    agents:
      claude:
        allow:
          - {{pattern: made.*, actions: [generate], overwrite: true, rate: {written}}}
          - {{pattern: made.*, actions: [resolve], rate: {read}}}
"""

GUARDED = """
    agents:
      claude:
        allow:
          - {pattern: made.*, actions: [generate]}
          - {pattern: made.*, actions: [resolve], approval: {approvers: [ops]}}
"""


async def test_a_run_that_ended_while_its_value_was_stored_is_told_that_it_is(tmp_path: Path) -> None:
    """It is not shown any more; to say `expired` would hide that the name is taken now."""
    bench = bench_in(tmp_path)
    run, real = bench.run(), bench.vault.put

    async def slowly(ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        version = await real(ref, value, expected=expected)
        bench.clock.time += 2 * 3600 * 1000
        return version

    bench.vault.put = slowly  # type: ignore[method-assign]  # the run's token ends meanwhile
    answer = await ask(bench, run, MADE)
    assert (answer.outcome, answer.version, answer.value, answer.lease) == ("granted", "1", None, None)
    assert bench.sink.records[-1].outcome == "granted"


@pytest.mark.parametrize(("written", "read"), [("100/m", "1/h"), ("1/h", "100/m")])
async def test_a_value_that_is_shown_counts_as_read_and_as_written(tmp_path: Path, written: str, read: str) -> None:
    """Whichever of the two limits is the tighter one."""
    bench = bench_in(tmp_path, RATED.format(written=written, read=read))
    run = bench.run()
    first = await ask(bench, run, Generate("made.mine", "hex:32", reveal=True))
    second = await ask(bench, run, Generate("made.mine", "hex:32", reveal=True, replaces=first.version))
    assert first.value is not None
    assert second.code == Code.RATE_LIMITED


async def test_a_value_that_is_not_shown_counts_as_written_only(tmp_path: Path) -> None:
    """As before."""
    bench = bench_in(tmp_path, RATED.format(written="100/m", read="1/h"))
    run, version = bench.run(), None
    for _ in range(3):
        made = await ask(bench, run, Generate("made.mine", "hex:32", replaces=version))
        assert made.outcome == "granted"
        version = made.version


async def test_a_value_that_people_must_approve_to_be_read_is_not_shown_when_it_is_made(tmp_path: Path) -> None:
    """Else to have it made would be the way around them; made without being shown it is."""
    bench = bench_in(tmp_path, GUARDED)
    assert (await ask(bench, bench.run(), MADE)).code == Code.DENIED
    assert bench.sink.records[-1].reason == "reading_not_granted"
    made = await ask(bench, bench.run(), Generate("made.mine", "alnum:24"))
    assert (made.outcome, made.value) == ("granted", None)


def test_two_rates_at_once_admit_no_more_than_either() -> None:
    """No limit counts for nothing; the slower average and the smaller burst hold."""
    slow, bursty = Rate(6, 60_000, 1), Rate(60, 60_000, 30)
    assert both(None, slow) == both(slow, None) == both(slow, slow) == slow
    assert both(None, None) is None
    together = both(Rate(6, 60_000, 5), Rate(60, 60_000, 20))
    assert together is not None
    assert (together.interval, together.burst) == (10_000_000, 2)
    assert both(slow, bursty) == both(bursty, slow) == slow
