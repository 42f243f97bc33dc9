"""Rate limits: the generic cell rate algorithm (ITU-T I.371), on integers.

A limit is one number, the theoretical arrival time (TAT): when the bucket will be empty again. The same arithmetic
runs on the queue, shared by all workers, and in each worker, so that a queue that forgets cannot lift a limit.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` names in `period` ms on average, and `burst` at once.

    Raises:
        ValueError: if a number is not positive or the rate is finer than one a microsecond.
    """

    count: int
    period: int
    burst: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.period < 1 or self.burst < 1:
            raise ValueError("a rate's count, period and burst are whole numbers from 1")
        if self.interval < 1:
            raise ValueError("a rate is at most one a microsecond")

    @property
    def interval(self) -> int:
        """Microseconds between two at the average rate."""
        return self.period * 1000 // self.count

    @property
    def tolerance(self) -> int:
        """How far the TAT may lie ahead, in microseconds, after one more was counted."""
        return self.interval * self.burst


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
