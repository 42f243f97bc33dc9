"""Times on the command line: `1h` ago, or a moment in ISO 8601; and durations for people."""

import time
from contextlib import suppress
from datetime import UTC, datetime

import click

from broker_worker.files.quantities import parse_duration


def now_ms() -> int:
    """The time, ms since the epoch."""
    return time.time_ns() // 1_000_000


def read_time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A click callback: a time as `1h` ago or in ISO 8601, in ms since the epoch."""
    if value is None:
        return None
    with suppress(ValueError):
        return now_ms() - parse_duration(value) * 1000
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        milliseconds = int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        milliseconds = -1
    if milliseconds < 0:
        raise click.BadParameter(f"{value!r} is no time: expected 30s, 15m, 1h, 2d or 2026-01-31T12:00:00Z")
    return milliseconds


def show_time(milliseconds: int) -> str:
    """A moment for people: UTC, to the second."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def show_span(milliseconds: int) -> str:
    """A duration for people: its two largest units."""
    seconds = max(0, milliseconds) // 1000
    units = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    first = next((index for index, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count or unit == "s")
