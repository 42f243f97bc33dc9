"""Rate limits: the generic cell rate algorithm (ITU-T I.371), on integers.

A limit is one number, the theoretical arrival time (TAT): when the bucket will be empty again. The same arithmetic
runs on the queue, shared by all workers, and in each worker, so that a queue that forgets cannot lift a limit.
"""

from dataclasses import dataclass, field

LONGEST_US = 10 * 366 * 24 * 3600 * 1_000_000
"""The longest time, in microseconds, that a limit may take to become whole again; keeps every TAT below 2**53, the
largest integer that a script on the queue can count with exactly."""

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` names in `period` ms on average, and `burst` at once.

    In any stretch of time at most `burst` names and what the average rate adds during it are admitted.

    Raises:
        ValueError: if a number is not positive, the rate is finer than one a microsecond, or `burst` takes longer
            than ten years to come back.
    """

    count: int
    period: int
    burst: int

    interval: int = field(init=False, repr=False, compare=False)
    """Microseconds between two at the average rate, rounded up so that the rate is never exceeded."""
    tolerance: int = field(init=False, repr=False, compare=False)
    """How far the TAT may lie ahead, in microseconds, after one more was counted."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.period < 1 or self.burst < 1:
            raise ValueError("a rate's count, period and burst are whole numbers from 1")
        if self.count > self.period * 1000:
            raise ValueError("a rate is at most one a microsecond")
        object.__setattr__(self, "interval", -(-self.period * 1000 // self.count))
        object.__setattr__(self, "tolerance", self.interval * self.burst)
        if self.tolerance > LONGEST_US:
            raise ValueError("a rate's burst comes back within ten years")

    def __str__(self) -> str:
        size, unit = next((size, unit) for size, unit in _UNITS if self.period % size == 0)
        periods = "" if self.period == size else str(self.period // size)
        return f"{self.count}/{periods}{unit}, {self.burst} at once"


def both(one: Rate | None, other: Rate | None) -> Rate | None:
    """A rate that is within two rates at once; None for no limit.

    Args:
        one: a rate; None for no limit.
        other: another one.
    """
    if one is None or other is None or one == other:
        return one or other
    slower = max(one, other, key=lambda rate: rate.interval)
    burst = min(one.tolerance, other.tolerance) // slower.interval
    return Rate(slower.count, slower.period, max(1, burst))


def count_one(rate: Rate, tat: int, now: int) -> tuple[bool, int]:
    """Count one arrival.

    Args:
        rate: the limit.
        tat: the theoretical arrival time so far, microseconds; 0 for none.
        now: the time, microseconds.

    Returns:
        `(True, new TAT)` if it is within the limit; else `(False, microseconds until it would be)`.
    """
    new = max(tat, now) + rate.interval
    excess = new - now - rate.tolerance
    if excess > 0:
        return False, excess
    return True, new
