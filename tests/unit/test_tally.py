"""Repeated refusals are counted: the first at once, the rest in one line a window, and none lost."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.errors import AuditError
from broker_worker.pipeline.records import unauthenticated
from broker_worker.pipeline.tally import WINDOW_MS, Tally


def refusal(reason: str = "malformed", at: int = 0) -> AuditRecord:
    return unauthenticated("claude", reason, at)


def test_the_first_of_a_kind_is_recorded_at_once_and_the_rest_counted() -> None:
    """With the time and details of the last one."""
    tally, written = Tally(), list[AuditRecord]()
    assert [tally.is_first(("a",), refusal(at=n), n) for n in range(5)] == [True, False, False, False, False]
    tally.record_due(written.extend, WINDOW_MS - 1)
    assert written == []
    tally.record_due(written.extend, WINDOW_MS)
    assert [(record.count, record.timestamp[-4:]) for record in written] == [(4, "004Z")]


def test_a_kind_that_did_not_come_again_is_silent_and_new_after_its_window() -> None:
    """The next one is a first one again."""
    tally, written = Tally(), list[AuditRecord]()
    tally.is_first(("a",), refusal(), 0)
    tally.record_due(written.extend, WINDOW_MS)
    assert written == []
    assert tally.is_first(("a",), refusal(), WINDOW_MS)


def test_a_window_is_over_when_the_clock_is_set_back() -> None:
    """Its counts do not wait until the clock is where it was."""
    tally, written = Tally(), list[AuditRecord]()
    for _ in range(3):
        tally.is_first(("a",), refusal(), 3_600_000)
    tally.record_due(written.extend, 0)
    assert [record.count for record in written] == [2]
    assert tally.is_first(("a",), refusal(), 0)


def test_kinds_are_counted_apart() -> None:
    """By everything that tells them apart."""
    tally = Tally()
    assert all(tally.is_first(kind, refusal(), 0) for kind in [("a", "x"), ("a", "y"), ("b", "x")])


def test_at_the_end_everything_is_due() -> None:
    """Whether its window is over or not."""
    tally, written = Tally(), list[AuditRecord]()
    for _ in range(3):
        tally.is_first(("a",), refusal(), 0)
    tally.record_due(written.extend, 1, everything=True)
    assert [record.count for record in written] == [2]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 3000), st.booleans(), st.booleans()), min_size=1, max_size=60
    )
)
def test_every_refusal_is_in_exactly_one_record(steps: list[tuple[str, int, bool, bool]]) -> None:
    """Whatever the times, and however often the audit fails in between."""
    tally, written, now = Tally(), list[AuditRecord](), 0
    for reason, later, fails, ticks in steps:
        now += later

        def append(records: Sequence[AuditRecord], fails: bool = fails) -> None:
            if fails:
                raise AuditError("the disk is full")
            written.extend(records)

        record = refusal(reason, now)
        if tally.is_first((reason,), record, now):
            if fails:
                tally.not_recorded([record])
            else:
                written.append(record)
        if ticks:
            try:
                tally.record_due(append, now)
            except AuditError:
                assert fails
    tally.record_due(written.extend, now, everything=True)
    for reason in "ab":
        counted = sum(record.count or 1 for record in written if record.reason == reason)
        assert counted == sum(step[0] == reason for step in steps)


def test_counts_that_could_not_be_recorded_are_due_again() -> None:
    """Nothing is dropped while the disk is full."""
    tally, written = Tally(), list[AuditRecord]()
    for _ in range(3):
        tally.is_first(("a",), refusal(), 0)

    def refuse(_: Sequence[AuditRecord]) -> None:
        raise AuditError("the disk is full")

    with pytest.raises(AuditError):
        tally.record_due(refuse, WINDOW_MS)
    tally.record_due(written.extend, WINDOW_MS)
    assert [record.count for record in written] == [2]
