"""Values in this process's memory: bounded, each with its own end, least recently used first out."""

from collections import OrderedDict
from dataclasses import dataclass

from broker_worker.core.errors import ProviderError
from broker_worker.core.redaction import LiveValues
from broker_worker.ports import CachedValue, Fetched


@dataclass(frozen=True, slots=True)
class _Kept:
    found: CachedValue | ProviderError
    until: int


class MemoryCache:
    """Implements `ports.Cache`.

    Args:
        max_entries: how many references are kept; the least recently used one makes room.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._live = LiveValues()

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"MemoryCache({len(self)} of {self._max_entries} entries)"

    def get(self, ref: str, ttl_ms: int, now: int) -> CachedValue | ProviderError | None:
        """What is known of a reference: a value younger than `ttl_ms`, a remembered failure, or nothing."""
        kept = self._kept.get(ref)
        if kept is None:
            return None
        found = kept.found
        if now >= kept.until or (isinstance(found, CachedValue) and now >= found.fetched_at + ttl_ms):
            self._drop(ref)
            return None
        self._kept.move_to_end(ref)
        return found

    def put(self, ref: str, fetched: Fetched, ttl_ms: int, now: int) -> None:
        """Keep a value for at most `ttl_ms`."""
        self._keep(ref, _Kept(CachedValue(fetched, now), now + ttl_ms))
        self._live.add(fetched.value)

    def put_failure(self, ref: str, error: ProviderError, ttl_ms: int, now: int) -> None:
        """Remember briefly that there is no value."""
        self._keep(ref, _Kept(error, now + ttl_ms))

    def redact(self, text: str) -> str:
        """The text, or a note in its place if it contains a value that the cache holds."""
        return self._live.redact(text)

    def purge(self, now: int) -> None:
        """Drop what is over."""
        for ref in [ref for ref, kept in self._kept.items() if now >= kept.until]:
            self._drop(ref)

    def resize(self, max_entries: int) -> None:
        """Change how many references are kept."""
        self._max_entries = max_entries
        while len(self._kept) > max_entries:
            self._drop(next(iter(self._kept)))

    def forget(self, ref: str) -> None:
        """Drop what is known of a reference."""
        if ref in self._kept:
            self._drop(ref)

    def clear(self) -> None:
        """Drop everything."""
        for ref in list(self._kept):
            self._drop(ref)

    def _keep(self, ref: str, kept: _Kept) -> None:
        if ref in self._kept:
            self._drop(ref)
        elif len(self._kept) >= self._max_entries:
            self._drop(next(iter(self._kept)))
        self._kept[ref] = kept

    def _drop(self, ref: str) -> None:
        kept = self._kept.pop(ref)
        if isinstance(kept.found, CachedValue):
            self._live.discard(kept.found.fetched.value)
