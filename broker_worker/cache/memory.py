"""Values in this process's memory: bounded, each with its own end, least recently used first out."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from broker_worker.core.errors import ProviderError
from broker_worker.core.redaction import LiveValues
from broker_worker.ports import CachedValue, Fetched

SETTING_MS = 5_000
"""How far the clock may be set back before nobody knows any more how old anything is, ms."""


class Keeper(Protocol):
    """Keeps values for the next start of the process; neither waits nor raises."""

    def keep(self, ref: str, value: CachedValue, until: int) -> None:
        """Keep a value up to its end, ms since the epoch."""
        ...

    def drop(self, ref: str) -> None:
        """Keep nothing of a reference any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    value: CachedValue
    until: int


class MemoryCache:
    """Implements `ports.Cache`.

    Args:
        max_entries: how many references are kept; the least recently used one makes room.
        keeper: keeps values for the next start; None if they end with the process.
    """

    def __init__(self, max_entries: int, keeper: Keeper | None = None) -> None:
        self._max_entries = max_entries
        self._keeper = keeper
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._failures: OrderedDict[str, tuple[ProviderError, int]] = OrderedDict()
        self._live = LiveValues()
        self._seen_at = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._failures)

    def __repr__(self) -> str:
        return f"MemoryCache({len(self)} of {self._max_entries} entries)"

    def get(self, ref: str, ttl_ms: int, now: int) -> CachedValue | ProviderError | None:
        """What is known of a reference: a value younger than `ttl_ms`, a remembered failure, or nothing."""
        kept = self._kept.get(ref)
        if kept is not None:
            if now < kept.until:
                value = kept.value
                if now < value.fetched_at + ttl_ms:
                    self._kept.move_to_end(ref)
                    return value
            else:
                self._drop(ref)
        return self._failure(ref, now) if self._failures else None

    def get_stale(self, ref: str, max_age_ms: int, now: int) -> CachedValue | None:
        """A value that is younger than `max_age_ms`, whatever its vault says now."""
        kept = self._kept.get(ref)
        if kept is None or now >= min(kept.until, kept.value.fetched_at + max_age_ms):
            return None
        self._kept.move_to_end(ref)
        return kept.value

    def put(self, ref: str, fetched: Fetched, ttl_ms: int, now: int) -> None:
        """Keep a value for at most `ttl_ms`, and no longer than the vault lets it live; it ends a failure."""
        self._failures.pop(ref, None)
        value = CachedValue(fetched, now)
        until = now + ttl_ms if value.lent_until is None else min(now + ttl_ms, value.lent_until)
        self.restore(ref, value, until)
        if self._keeper is not None:
            self._keeper.keep(ref, value, until)

    def restore(self, ref: str, value: CachedValue, until: int) -> None:
        """Take back a value that a keeper had, up to its end, ms since the epoch."""
        if ref in self._kept:
            self._drop(ref)
        elif len(self._kept) >= self._max_entries:
            self._drop(next(iter(self._kept)))
        self._kept[ref] = _Kept(value, until)
        self._live.add(value.fetched.value)

    def put_failure(self, ref: str, error: ProviderError, ttl_ms: int, now: int) -> None:
        """Remember briefly that there is no value; one that is about the name ends the value that was kept."""
        if error.is_about_the_name:
            if ref in self._kept:
                self._drop(ref)
            if self._keeper is not None:
                self._keeper.drop(ref)
        self._failures.pop(ref, None)
        if len(self._failures) >= self._max_entries:
            self._failures.popitem(last=False)
        self._failures[ref] = error, now + ttl_ms

    def forget_lent(self, upstream_leases: Collection[str]) -> None:
        """Drop every value that belongs to one of these leases of a vault's."""
        for ref, kept in list(self._kept.items()):
            if kept.value.fetched.upstream_lease in upstream_leases:
                self._drop(ref)

    def redact(self, text: str) -> str:
        """The text, or a note in its place if it contains a value that the cache holds."""
        return self._live.redact(text)

    def purge(self, now: int) -> None:
        """Drop what is over; everything if the clock went back, as nobody then knows how old it is."""
        if now < self._seen_at - SETTING_MS:
            self.clear()
            self._seen_at = 0
        self._seen_at = max(now, self._seen_at)
        for ref in [ref for ref, kept in self._kept.items() if now >= kept.until]:
            self._drop(ref)
        for ref in [ref for ref, (_, until) in self._failures.items() if now >= until]:
            del self._failures[ref]

    def resize(self, max_entries: int) -> None:
        """Change how many references are kept."""
        self._max_entries = max_entries
        while len(self._kept) > max_entries:
            self._drop(next(iter(self._kept)))
        while len(self._failures) > max_entries:
            self._failures.popitem(last=False)

    def forget(self, ref: str) -> None:
        """Drop what is known of a reference, and what is kept of it for the next start."""
        self._failures.pop(ref, None)
        if ref in self._kept:
            self._drop(ref)
        if self._keeper is not None:
            self._keeper.drop(ref)

    def clear(self) -> None:
        """Drop everything."""
        for ref in list(self._kept):
            self._drop(ref)
        self._failures.clear()

    def _failure(self, ref: str, now: int) -> ProviderError | None:
        error, until = self._failures.get(ref, (None, 0))
        if error is not None and now >= until:
            del self._failures[ref]
            return None
        return error

    def _drop(self, ref: str) -> None:
        self._live.discard(self._kept.pop(ref).value.fetched.value)
