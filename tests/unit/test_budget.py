"""Budgets of reads: never more than a window takes, wherever it begins, and a wait that is true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.budget import (
    DAY_MS,
    HOUR_MS,
    MAX_READS,
    MINUTE_MS,
    Budget,
    Room,
    affordable,
    count_reads,
    rooms,
    wait_for,
)

NOW = 1_800_000_000_000
BUDGETS = st.builds(
    Budget,
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 60),
    st.integers(0, 90),
)
STEPS = st.lists(st.tuples(st.integers(0, 3 * HOUR_MS), st.integers(1, 12), st.booleans()), max_size=40)


@given(BUDGETS, STEPS)
def test_no_window_ever_takes_more_than_its_limit(budget: Budget, steps: list[tuple[int, int, bool]]) -> None:
    """Whatever is read when: any 60 minutes and any 24 hours hold at most their limit; the others leave the reserve."""
    now, reads = NOW, dict[int, int]()
    done: list[tuple[int, int, bool]] = []
    for later, cost, critical in steps:
        now += later
        if cost <= affordable(budget, reads, now, critical=critical):
            reads = count_reads(reads, now, cost)
            done.append((now, cost, critical))
    for length, limit in ((HOUR_MS, budget.reads_per_hour), (DAY_MS, budget.reads_per_day)):
        for begin, _, _ in done:
            inside = [(at, cost, critical) for at, cost, critical in done if begin <= at < begin + length]
            assert limit is None or sum(cost for _, cost, _ in inside) <= limit
            if limit is not None and not any(critical for _, _, critical in inside):
                assert sum(cost for _, cost, _ in inside) <= limit * (100 - budget.reserve_percent) / 100


@given(BUDGETS, STEPS, st.integers(1, 12), st.booleans())
def test_the_wait_is_true_and_the_shortest(
    budget: Budget, steps: list[tuple[int, int, bool]], cost: int, critical: bool
) -> None:
    """After it the reads fit, and a millisecond earlier they do not; never is said only of what never fits."""
    now, reads = NOW, dict[int, int]()
    for later, amount, _ in steps:
        now += later
        reads = count_reads(reads, now, amount)
    wait = wait_for(budget, reads, now, cost, critical=critical)
    if wait is None:
        assert any(cost > limit for _, _, limit in budget.windows(critical=critical))
        return
    assert cost <= affordable(budget, reads, now + wait, critical=critical)
    assert wait == 0 or cost > affordable(budget, reads, now + wait - 1, critical=critical)
    assert wait <= DAY_MS + MINUTE_MS


def test_what_is_left_is_told_by_window() -> None:
    """How much each takes, and when it takes more."""
    budget = Budget(10, 100, 20)
    reads = count_reads(count_reads({}, NOW, 6), NOW + 30 * MINUTE_MS, 1)
    now = NOW + 30 * MINUTE_MS
    assert rooms(budget, reads, now, critical=False) == [
        Room("hour", 8, 1, 31 * MINUTE_MS - NOW % MINUTE_MS),
        Room("day", 80, 73, DAY_MS - 29 * MINUTE_MS - NOW % MINUTE_MS),
    ]
    assert [room.left for room in rooms(budget, reads, now, critical=True)] == [3, 93]
    assert rooms(budget, {}, now, critical=True)[0].more_in is None


def test_reads_are_forgotten_after_a_day() -> None:
    """The file that keeps them does not grow."""
    reads = dict[int, int]()
    for minute in range(3 * 24 * 60):
        reads = count_reads(reads, NOW + minute * MINUTE_MS, 1)
    assert len(reads) <= 24 * 60 + 1


def test_without_a_window_there_is_no_limit() -> None:
    """A budget may name one window only."""
    assert affordable(Budget(None, 5), {}, NOW, critical=False) == 4
    assert affordable(Budget(), {}, NOW, critical=False) == MAX_READS


@pytest.mark.parametrize("wrong", [(0, None, 10), (None, 0, 10), (MAX_READS + 1, None, 10), (1, 1, 91), (1, 1, -1)])
def test_a_budget_checks_itself(wrong: tuple[int | None, int | None, int]) -> None:
    """No budget of nothing, and no reserve of all."""
    with pytest.raises(ValueError, match=r"a budget is|a reserve is"):
        Budget(*wrong)


def test_the_reserve_is_a_budget_of_its_own() -> None:
    """Rounded up; none is none, not one without limit."""
    assert Budget(1000, None, 10).reserve() == Budget(100, None, 0)
    assert Budget(5, 7, 10).reserve() == Budget(1, 1, 0)
    assert Budget(5, 7, 0).reserve() is None
