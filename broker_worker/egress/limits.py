"""How many calls, and how many at once: of each run on each route, and of all together."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable

from broker_worker.core.limits import Rate, count_one
from broker_worker.egress.problems import Refusal

_MAX_KEYS = 4096
"""How many buckets are kept. Past that the one that was used longest ago is forgotten, and would be full again."""


class Buckets:
    """Token buckets by key.

    Args:
        now: the time in microseconds, on a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._arrivals: OrderedDict[object, int] = OrderedDict()

    def take(self, key: object, rate: Rate) -> int:
        """Count one; 0 if it is within the rate, else the microseconds until it would be."""
        admitted, number = count_one(rate, self._arrivals.get(key, 0), self._now())
        if not admitted:
            return number
        self._arrivals[key] = number
        self._arrivals.move_to_end(key)
        if len(self._arrivals) > _MAX_KEYS:
            self._arrivals.popitem(last=False)
        return 0


class InFlight:
    """Calls that are being made.

    Args:
        most: how many at once.
        most_of_one: and of one run.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self.most, self.most_of_one = most, most_of_one
        self._calls: Counter[str] = Counter()
        self._total = 0
        self.ended = asyncio.Event()
        """Set while no call is being made."""
        self.ended.set()

    def __len__(self) -> int:
        return self._total

    def begin(self, token: str) -> None:
        """Count one call, until `end`.

        Raises:
            Refusal: if there are too many.
        """
        if self._total >= self.most:
            raise Refusal(503, "busy", "too many calls are in flight: try again", 1)
        if self._calls[token] >= self.most_of_one:
            raise Refusal(429, "too_many_calls", "this run has too many calls in flight: wait for some to end", 1)
        self._total += 1
        self.ended.clear()
        self._calls[token] += 1

    def end(self, token: str) -> None:
        """Count one call less."""
        self._total -= 1
        self._calls[token] -= 1
        if not self._calls[token]:
            del self._calls[token]
        if not self._total:
            self.ended.set()
