"""What a worker remembers by itself is bounded, never stricter than the truth, and enough to catch a lying queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.backstop import SLACK_US, Backstop
from broker_worker.core.limits import Rate, count_one

RATE = Rate(6, 60_000, 3)
NOW = 1_800_000_000_000_000


def test_the_same_request_in_another_entry_is_a_replay() -> None:
    """In the same entry, claimed again, it is not."""
    backstop = Backstop()
    assert not backstop.is_replay(("k", b"request"), b"1-0")
    assert not backstop.is_replay(("k", b"request"), b"1-0")
    assert backstop.is_replay(("k", b"request"), b"2-0")


def test_a_replay_of_the_generation_before_is_one() -> None:
    """What was answered just before the memory was begun anew is as known as what came after."""
    backstop = Backstop(generation=2)
    for number in range(3):
        assert not backstop.is_replay(("k", b"r%d" % number), b"1-0")
    assert backstop.is_replay(("k", b"r0"), b"2-0")


def test_memory_is_two_generations() -> None:
    """At least one generation of requests is remembered, and at most two."""
    backstop = Backstop(generation=10)
    for number in range(100):
        backstop.is_replay(("k", b"r%d" % number), b"1-0")
    assert all(backstop.is_replay(("k", b"r%d" % number), b"2-0") for number in range(90, 100))
    assert len(backstop._seen) + len(backstop._seen_before) <= 20


def test_limits_are_forgotten_when_they_are_whole_again() -> None:
    """However many there were."""
    backstop = Backstop(generation=10)
    for number in range(100):
        backstop.count([(f"k{number}", RATE, 1)], NOW + number * 60_000_000)
    assert len(backstop._tats) <= 11


def test_a_limit_that_is_exceeded_by_more_than_clocks_explain_is_refused() -> None:
    """With the time to wait; what was refused does not count."""
    backstop = Backstop()
    assert [backstop.count([("k", RATE, 1)], NOW) > 0 for _ in range(5)] == [False, False, False, True, True]
    wait = backstop.count([("k", RATE, 1)], NOW)
    assert backstop.count([("k", RATE, 1)], NOW + wait) == 0


@pytest.mark.parametrize("together", [False, True])
def test_limits_go_on_when_the_clock_is_set_back(together: bool) -> None:
    """What was counted before is over when it would have been, whether or not anybody asked in between."""
    backstop, now = Backstop(), NOW

    def is_within() -> bool:
        limits = [("k", RATE, 1)]
        return backstop.count_all(limits, now) if together else backstop.count(limits, now) == 0

    while is_within():
        pass
    for _ in range(2):
        now += RATE.interval // 2
        backstop.going_on(now)
        now -= 3_600_000_000
        assert not is_within()
        now += RATE.interval // 2
        assert is_within()
        assert not is_within()


@given(st.lists(st.tuples(st.integers(0, 15_000_000), st.integers(1, 3)), max_size=60), st.integers(0, SLACK_US))
def test_what_the_queue_rightly_admits_is_never_refused(steps: list[tuple[int, int]], behind: int) -> None:
    """Even if this worker's clock lags behind the queue's by the slack."""
    backstop, tat, now = Backstop(), 0, NOW
    for later, names in steps:
        now += later
        trial, within = tat, True
        for _ in range(names):
            ok, number = count_one(RATE, trial, now)
            within = within and ok
            trial = number if ok else trial
        if within:
            tat = trial
            assert backstop.count([("k", RATE, names)], now - behind) == 0


@given(st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(1, 3)), max_size=80))
def test_a_queue_that_admits_everything_lifts_a_limit_by_the_slack_only(steps: list[tuple[int, int]]) -> None:
    """In any stretch of time: the burst, what the rate adds, and what clocks may explain."""
    backstop, now, admitted = Backstop(), NOW, 0
    for later, names in steps:
        now += later
        if backstop.count([("k", RATE, names)], now) == 0:
            admitted += names
    assert admitted <= RATE.burst + (now - NOW + SLACK_US) // RATE.interval + 1


KEYS = st.sampled_from(["a", "b", "c"])
RATES = st.sampled_from([RATE, Rate(3, 60_000, 1), Rate(600, 60_000, 50)])


@given(st.lists(st.tuples(KEYS, RATES, st.integers(1, 3)), max_size=12), st.integers(0, 5), st.integers(0, 3_000_000))
def test_counting_many_at_once_is_counting_each_in_turn(
    limits: list[tuple[str, Rate, int]], before: int, later: int
) -> None:
    """If all are within their limits; else nothing is counted, and each is looked at by itself."""
    at_once, in_turn = Backstop(), Backstop()
    for backstop in (at_once, in_turn):
        for _ in range(before):
            backstop.count([("a", RATE, 1)], NOW)
    states = dict(at_once._tats)
    if at_once.count_all(limits, NOW + later):
        assert [in_turn.count([each], NOW + later) for each in limits] == [0] * len(limits)
        assert at_once._tats == in_turn._tats
    else:
        assert at_once._tats == states
        if len({key for key, _, _ in limits}) == len({(key, id(rate)) for key, rate, _ in limits}):
            assert any(in_turn.count([each], NOW + later) for each in limits)


def test_limits_counted_at_once_are_forgotten_when_they_are_whole_again() -> None:
    """However many there were."""
    backstop = Backstop(generation=10)
    for number in range(100):
        assert backstop.count_all([(f"k{number}", RATE, 1)], NOW + number * 60_000_000)
    assert len(backstop._tats) <= 11


def test_a_limit_with_two_rates_admits_no_more_at_once_than_in_turn() -> None:
    """Entries of one secret may differ in their rates and count together: the strict one sees what the other counts."""
    strict, loose = Rate(60, 60_000, 2), Rate(60, 60_000, 9)
    in_turn = Backstop()
    assert [in_turn.count([("k", rate, 1)], NOW) == 0 for rate in (strict, loose, loose, strict)][-1] is False
    assert not Backstop().count_all([("k", strict, 2), ("k", loose, 2)], NOW)
