"""Which proofs of possession were shown to this process: each counts once (docs/protocol.md, "Proof of possession")."""

import hashlib
from collections import OrderedDict

from agent_sdk.wire.errors import Code
from agent_sdk.wire.proof import MAX_LIFETIME

KEPT_MS = MAX_LIFETIME + 2 * 30_000
"""How long a proof could be good after it was shown, both clocks' skew included."""
UNPROVEN = frozenset({Code.UNAUTHENTICATED, Code.EXPIRED, Code.RATE_LIMITED})
"""Answers of the broker after which nothing was served by a proof, and perhaps nobody looked at its signature."""


class ShownProofs:
    """Remembers what was shown, by what was signed: another signature over the same is the same proof.

    Args:
        limit: how many are remembered. What comes beyond is refused, so that no flood makes one forgotten.
    """

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._until: OrderedDict[bytes, int] = OrderedDict()

    def take(self, proof: str, now: int) -> bool:
        """Use a proof; False if it was used before.

        Args:
            proof: as it was shown.
            now: the time, ms since the epoch.
        """
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        mark = _mark(proof)
        if mark in self._until or len(self._until) >= self._limit:
            return False
        self._until[mark] = now + KEPT_MS
        return True

    def give_back(self, proof: str, code: Code) -> None:
        """Forget a proof that served nothing: junk must not fill the memory.

        Args:
            proof: what was taken.
            code: why the broker refused what was asked with it.
        """
        if code in UNPROVEN:
            self._until.pop(_mark(proof), None)


def _mark(proof: str) -> bytes:
    return hashlib.sha256(proof.rpartition(".")[0].encode("utf-8", "surrogatepass")).digest()
