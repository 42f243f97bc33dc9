"""Reads that a vault rations: how many are left in every stretch of an hour and of a day, and when there are more.

Vaults let their windows begin when they like (1Password: with the first request), so a budget holds in every stretch of
that length: whichever window the vault counts, no more fall into it. Reads are kept by the minute, and a minute counts
until all of it has left the window, so that what is left is never overestimated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
MAX_READS: Final = 1_000_000_000
MAX_RESERVE: Final = 90
RESERVE_PERCENT: Final = 10

Reads = Mapping[int, int]
"""How many reads there were in each minute, counted from the epoch."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many reads a vault may be asked for.

    Args:
        reads_per_hour: the most in any 60 minutes; None for no limit.
        reads_per_day: the most in any 24 hours; None for no limit.
        reserve_percent: how much of both is kept for critical secrets, 0 to 90.

    Raises:
        ValueError: if a number is out of range.
    """

    reads_per_hour: int | None = None
    reads_per_day: int | None = None
    reserve_percent: int = RESERVE_PERCENT

    def __post_init__(self) -> None:
        for limit in (self.reads_per_hour, self.reads_per_day):
            if limit is not None and not 1 <= limit <= MAX_READS:
                raise ValueError(f"a budget is 1 to {MAX_READS} reads")
        if not 0 <= self.reserve_percent <= MAX_RESERVE:
            raise ValueError(f"a reserve is 0 to {MAX_RESERVE} percent")

    def windows(self, *, critical: bool) -> list[tuple[str, int, int]]:
        """Name, length in ms and limit of each window, for critical secrets or for the others."""
        windows = (("hour", HOUR_MS, self.reads_per_hour), ("day", DAY_MS, self.reads_per_day))
        return [
            (name, length, limit if critical else limit - self._reserved(limit))
            for name, length, limit in windows
            if limit is not None
        ]

    def reserve(self) -> "Budget | None":
        """The reserve as a budget of its own; None if nothing is reserved."""
        if not self.reserve_percent:
            return None
        hour, day = self.reads_per_hour, self.reads_per_day
        return Budget(
            None if hour is None else self._reserved(hour),
            None if day is None else self._reserved(day),
            reserve_percent=0,
        )

    def _reserved(self, limit: int) -> int:
        return -(-limit * self.reserve_percent // 100)


DEFAULT_BUDGETS: Final[Mapping[str, Budget]] = {"onepassword": Budget(1_000, 1_000)}
"""Per provider type the budget where `broker.yaml` writes none: what the smallest plan of that vault allows."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left in one window.

    Args:
        window: `hour` or `day`.
        limit: how many reads it takes.
        left: how many more it takes now.
        more_in: ms until it takes more than that; None if nothing was read in it.
    """

    window: str
    limit: int
    left: int
    more_in: int | None


def rooms(budget: Budget, reads: Reads, now: int, *, critical: bool) -> list[Room]:
    """What is left in each of a budget's windows.

    Args:
        budget: the budget.
        reads: what was read so far.
        now: the time, ms.
        critical: whether the reserve counts too.
    """
    found = []
    for name, length, limit in budget.windows(critical=critical):
        ends = sorted(_leaves(minute, length) for minute, count in reads.items() if count)
        still = [end for end in ends if end > now]
        used = _used(reads, length, now)
        found.append(Room(name, limit, max(0, limit - used), still[0] - now if still else None))
    return found


def affordable(budget: Budget, reads: Reads, now: int, *, critical: bool) -> int:
    """How many reads fit into all windows now; `MAX_READS` if there is no window."""
    windows = budget.windows(critical=critical)
    return min((max(0, limit - _used(reads, length, now)) for _, length, limit in windows), default=MAX_READS)


def wait_for(budget: Budget, reads: Reads, now: int, cost: int, *, critical: bool) -> int | None:
    """Milliseconds until `cost` reads fit, if nobody else reads meanwhile; 0 if they fit now, None if they never do."""
    waits = [0]
    for _, length, limit in budget.windows(critical=critical):
        if cost > limit:
            return None
        excess = _used(reads, length, now) + cost - limit
        for minute in sorted(reads):
            if excess <= 0:
                break
            if _leaves(minute, length) > now:
                excess -= reads[minute]
                waits.append(_leaves(minute, length) - now)
    return max(waits)


def count_reads(reads: Reads, now: int, cost: int) -> dict[int, int]:
    """The reads with `cost` more of them now, and without those that no window sees any more."""
    counted = {minute: count for minute, count in reads.items() if _leaves(minute, DAY_MS) > now}
    minute = now // MINUTE_MS
    counted[minute] = counted.get(minute, 0) + cost
    return counted


def _leaves(minute: int, length: int) -> int:
    return (minute + 1) * MINUTE_MS + length


def _used(reads: Reads, length: int, now: int) -> int:
    return sum(count for minute, count in reads.items() if _leaves(minute, length) > now)
