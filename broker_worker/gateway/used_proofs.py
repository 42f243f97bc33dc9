"""Proofs that were shown here: each serves once (draft-ietf-wimse-wpt-02, "Replay Protection").

A proof has one spelling that verifies, so its characters name it; whoever stole it cannot write it otherwise.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from broker_worker.gateway.problems import UNAVAILABLE_SECONDS, Problem, unauthenticated

KEPT_MS: Final = 10 * 60 * 1000
"""Longer than any proof is good: five minutes, and what clocks may differ, twice."""
LIMIT: Final = 100_000


class UsedProofs:
    """Remembers proofs until none of them can be good any more.

    Args:
        clock: the time in ms since the epoch.
        limit: how many are remembered; more are not served.
    """

    def __init__(self, clock: Callable[[], int], limit: int = LIMIT) -> None:
        self._clock, self._limit = clock, limit
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def take(self, proof: str) -> None:
        """Use a proof.

        Raises:
            Problem: 401 if it was used before; 503 if so many were that no more can be remembered.
        """
        now = self._clock()
        while self._seen and next(iter(self._seen.values())) <= now - KEPT_MS:
            self._seen.popitem(last=False)
        mark = _mark(proof)
        if mark in self._seen:
            raise unauthenticated()
        if len(self._seen) >= self._limit:
            raise Problem(503, "unavailable", "too many proofs at once", retry_after=UNAVAILABLE_SECONDS)
        self._seen[mark] = now

    def give_back(self, proof: str) -> None:
        """Forget a proof that turned out to be none: rubbish must not fill the memory."""
        self._seen.pop(_mark(proof), None)


def _mark(proof: str) -> bytes:
    return hashlib.sha256(proof.encode()).digest()
