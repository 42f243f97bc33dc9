"""Durations, rates and moments as operators write them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.limits import Rate
from broker_worker.files.quantities import parse_duration, parse_moment, parse_rate


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90s", 90), ("10m", 600), ("8h", 28_800), ("7d", 604_800), ("366d", 31_622_400)]
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: int) -> None:
    """Seconds, minutes, hours, days."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "0s", "367d", "-1s", "1.5h", "10 m", "10M", "1h30m", "\u0661s", "9" * 99 + "s"]
)
def test_any_other_duration_is_refused(text: str) -> None:
    """No unit, nothing, too long, another alphabet's digits."""
    with pytest.raises(ValueError, match="expected a"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("30/m", Rate(30, 60_000, 30)),
        ("5/s", Rate(5, 1000, 5)),
        ("100/10m", Rate(100, 600_000, 100)),
        ("1/d", Rate(1, 86_400_000, 1)),
    ],
)
def test_a_rate_admits_its_count_at_once(text: str, rate: Rate) -> None:
    """Where no burst is written."""
    assert parse_rate(text) == rate


def test_a_burst_of_its_own_replaces_it() -> None:
    """`{rate: 30/m, burst: 5}`."""
    assert parse_rate("30/m", 5) == Rate(30, 60_000, 5)


@pytest.mark.parametrize(
    "text", ["", "30", "30/", "/m", "30/x", "0/m", "-1/m", "30 / m", "1.5/s", "30/0m", "999999999/s"]
)
def test_any_other_rate_is_refused(text: str) -> None:
    """A rate of zero as well: whoever means that leaves the entry out."""
    with pytest.raises(ValueError, match=r"expected|rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-31", datetime(2026, 12, 31, 23, 59, 59, 999_000, UTC)),
        ("2026-12-31T18:00:00Z", datetime(2026, 12, 31, 18, 0, 0, 0, UTC)),
        ("2026-12-31t18:00:00z", datetime(2026, 12, 31, 18, 0, 0, 0, UTC)),
        ("2026-12-31 18:00:00+02:00", datetime(2026, 12, 31, 16, 0, 0, 0, UTC)),
        ("2026-12-31T18:00:00.25-01:30", datetime(2026, 12, 31, 19, 30, 0, 250_000, UTC)),
    ],
)
def test_a_moment_is_a_date_or_an_rfc_3339_date_time(text: str, moment: datetime) -> None:
    """A date stands for its last millisecond in UTC."""
    assert parse_moment(text) == int(moment.timestamp() * 1000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01",
        "2026-02-30",
        "2026-12-31T18:00:00",
        "2026-12-31T18:00Z",
        "20261231",
        "1969-12-31",
        "2026-12-31T25:00:00Z",
        "0001-01-01T00:00:00+23:00",
    ],
)
def test_any_other_moment_is_refused(text: str) -> None:
    """A time without an offset is refused, because nobody knows whose it is."""
    with pytest.raises(ValueError, match="expected a date"):
        parse_moment(text)


@given(st.text(max_size=40))
def test_arbitrary_text_raises_nothing_but_value_error(text: str) -> None:
    """And what passes is within bounds."""
    for parse in (parse_duration, parse_rate, parse_moment):
        try:
            parse(text)
        except ValueError:
            continue
