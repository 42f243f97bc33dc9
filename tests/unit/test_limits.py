"""Rate limits: what a rate means, and that it is never exceeded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.limits import LONGEST_US, Rate, count_one

NOW = 1_700_000_000_000_000
RATES = st.builds(Rate, count=st.integers(1, 1000), period=st.integers(1000, 100_000), burst=st.integers(1, 50))


def test_an_idle_limit_admits_exactly_its_burst_at_once() -> None:
    """Nobody has asked yet: `burst` names go through in the same instant, one more does not."""
    rate, tat, admitted = Rate(10, 60_000, 3), 0, 0
    for _ in range(5):
        within, new = count_one(rate, tat, NOW)
        if within:
            tat, admitted = new, admitted + 1
    assert admitted == 3


def test_a_refusal_says_how_long_to_wait_to_the_microsecond() -> None:
    """One microsecond before the time that a refusal names it is refused again, at that time it is admitted."""
    rate = Rate(10, 60_000, 1)
    _, tat = count_one(rate, 0, NOW)
    within, wait = count_one(rate, tat, NOW)
    assert (within, wait) == (False, 6_000_000)
    assert not count_one(rate, tat, NOW + wait - 1)[0]
    assert count_one(rate, tat, NOW + wait)[0]


def test_a_refusal_does_not_count() -> None:
    """Asking too often does not push the moment of the next admission away."""
    rate = Rate(10, 60_000, 1)
    _, tat = count_one(rate, 0, NOW)
    waits = [count_one(rate, tat, NOW)[1] for _ in range(100)]
    assert set(waits) == {6_000_000}


@given(RATES, st.lists(st.integers(0, 3_000_000), max_size=200))
def test_no_window_admits_more_than_burst_and_rate(rate: Rate, gaps: list[int]) -> None:
    """In every stretch of time: at most `burst` names and what the average rate adds during it."""
    now, tat, admitted = NOW, 0, list[int]()
    for gap in gaps:
        now += gap
        within, new = count_one(rate, tat, now)
        if within:
            tat = new
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            elapsed = admitted[last] - admitted[first]
            assert (last - first + 1 - rate.burst) * rate.period * 1000 <= rate.count * elapsed


@given(RATES, st.integers(0, 2**52), st.integers(1, 2**50))
def test_whatever_the_state_says_an_admission_moves_it_on(rate: Rate, tat: int, now: int) -> None:
    """A state from the queue, even a made-up one, either refuses with a wait or moves beyond both."""
    within, result = count_one(rate, tat, now)
    assert result > max(tat, now) if within else result > 0


@pytest.mark.parametrize(
    ("count", "period", "burst"), [(0, 1000, 1), (1, 0, 1), (1, 1000, 0), (-1, 1000, 1), (1001, 1, 1)]
)
def test_a_rate_that_cannot_be_meant_is_refused(count: int, period: int, burst: int) -> None:
    """Zero, negative numbers, and more than one a microsecond."""
    with pytest.raises(ValueError, match="rate"):
        Rate(count, period, burst)


def test_a_burst_that_takes_longer_than_ten_years_is_refused() -> None:
    """A limit's state stays below 2**53, so that a script on the queue counts exactly."""
    with pytest.raises(ValueError, match="ten years"):
        Rate(1, 24 * 3600 * 1000, 4000)
    assert LONGEST_US + 4 * NOW < 2**53


def test_the_interval_is_rounded_so_that_the_rate_is_never_exceeded() -> None:
    """Seven a second are one in 142,858 microseconds, not in 142,857."""
    assert Rate(7, 1000, 1).interval == 142_858


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(30, 60_000, 10), "30/m, 10 at once"),
        (Rate(5, 1000, 5), "5/s, 5 at once"),
        (Rate(100, 600_000, 1), "100/10m, 1 at once"),
        (Rate(1, 86_400_000, 1), "1/d, 1 at once"),
    ],
)
def test_a_rate_reads_as_it_is_written(rate: Rate, text: str) -> None:
    """People see `30/m`, not milliseconds."""
    assert str(rate) == text
