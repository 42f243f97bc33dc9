"""Durations, rates, sizes and moments as operators write them: `10m`, `30/m`, `10MiB`, `2026-12-31`.

Everything here raises `ValueError` with what was expected; who calls it knows the file and the line.
"""

import re
from datetime import UTC, date, datetime, timedelta

from broker_worker.core.limits import Rate

LONGEST_SECONDS = 366 * 24 * 3600
"""The longest duration that a file may state."""

LARGEST_BYTES = 16 * 2**30
"""The largest size that a file may state."""

_UNIT_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB)", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,8})([smhd])", re.ASCII)
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,8})([smhd])", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def parse_duration(text: str) -> int:
    """Seconds of a duration such as `90s`, `10m`, `8h` or `7d`, from 1 s to 366 d.

    Raises:
        ValueError: if it is not of that form.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("expected a number and its unit, such as 90s, 10m, 8h or 7d")
    seconds = int(found[1]) * _UNIT_SECONDS[found[2]]
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise ValueError("expected a duration from 1s to 366d")
    return seconds


def parse_rate(text: str, burst: int | None = None) -> Rate:
    """A rate such as `30/m`, `5/s` or `100/10m`.

    Args:
        text: the rate.
        burst: how many at once; None for as many as the rate's count.

    Raises:
        ValueError: if it is not of that form or out of range.
    """
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("expected a rate such as 30/m, 5/s or 100/10m")
    count = int(found[1])
    if count == 0:
        raise ValueError("a rate of 0 admits nothing: leave the entry out, or deny the secret")
    period = parse_duration((found[2] or "1") + found[3]) * 1000
    return Rate(count, period, count if burst is None else burst)


def parse_size(text: str) -> int:
    """Bytes of a size such as `64KiB`, `10MiB` or `1GiB`.

    Raises:
        ValueError: if it is not of that form.
    """
    found = _SIZE.fullmatch(text)
    size = 0 if found is None else int(found[1]) * _UNIT_BYTES[found[2]]
    if not 1 <= size <= LARGEST_BYTES:
        raise ValueError("expected a size such as 64KiB, 10MiB or 1GiB, of at most 16GiB")
    return size


def parse_moment(text: str) -> int:
    """A moment in ms since the epoch: an RFC 3339 date-time with its offset, or a date for that day's end in UTC.

    Raises:
        ValueError: if it is neither, or before 1970.
    """
    try:
        milliseconds = (_instant(text) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        milliseconds = -1
    if milliseconds < 0:
        expected = "a date (2026-12-31, its end in UTC) or a date-time with its offset (2026-12-31T18:00:00Z)"
        raise ValueError(f"expected {expected}, after 1970")
    return milliseconds


def _instant(text: str) -> datetime:
    if _DATE.fullmatch(text):
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, 23, 59, 59, 999_000, UTC)
    if _DATE_TIME.fullmatch(text):
        return datetime.fromisoformat(text.upper().replace(" ", "T"))
    raise ValueError
