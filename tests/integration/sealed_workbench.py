"""Sealed caches for tests: in a folder of their own, with keys that are derived quickly, or kept by a double."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.format import Record, Row
from broker_worker.cache.sealed.key_file import KeyFile
from broker_worker.cache.sealed.passphrase import PassphraseWrapping
from broker_worker.cache.sealed.store import SealedStore
from broker_worker.cache.sealed.wrapping import Wrapped, Wrapping, Wrappings
from broker_worker.core.configuration import SealedSettings

NOW = 1_800_000_000_000
TTL = 300_000
BINDING = bytes(32)
REFS = frozenset(f"op://Agents/item-{number}/credential" for number in range(20))
FIRST, SECOND, THIRD = sorted(REFS)[:3]
PASSPHRASE = b"correct horse battery staple"
QUICK = (1, 8192)
CANARY = b"c4n4ry-0f-th3-s34l3d-c4ch3"


def quick(passphrase: bytes = PASSPHRASE) -> PassphraseWrapping:
    """A passphrase that takes a millisecond to derive."""
    made = PassphraseWrapping(lambda: passphrase)
    made.cost = QUICK
    return made


def record(ref: str = FIRST, value: bytes = CANARY, at: int = NOW, ttl: int = TTL, version: str | None = "1") -> Record:
    """A record as a worker would keep it."""
    return Record(ref, version, at, at + ttl, BINDING, value)


class Host:
    """A folder with a sealed cache, and a clock.

    Args:
        folder: where; made here.
        identity: what tells it from other hosts.
        master_key: what the operator's section says.
        makers: what can wrap a key here; a quick passphrase by default.
    """

    def __init__(
        self,
        folder: Path,
        identity: bytes = b"this very host!!",
        master_key: str = "passphrase",
        makers: Mapping[str, Callable[[], Wrapping]] | None = None,
    ) -> None:
        self.file, self.key = folder / "state" / "cache.sqlite3", folder / "keys" / "cache.key"
        self.count = self.key.with_suffix(".count")
        self.identity = identity
        self.master_key = master_key
        self.makers: dict[str, Callable[[], Wrapping]] = dict(makers or {"passphrase": quick})
        self.now = NOW
        folder.mkdir(mode=0o700, exist_ok=True)

    def store(self) -> SealedStore:
        """The store of another process."""
        wrappings = Wrappings(SealedSettings(master_key=self.master_key), self.makers)
        return SealedStore(self.file, KeyFile(self.key, self.identity), wrappings, lambda: self.now)

    def keep(self, *records: Record, is_last: bool = False, max_entries: int = 100) -> SealedStore:
        """Have a process write records."""
        store = self.store()
        store.open(REFS, BINDING)
        store.commit({each.ref: each for each in records}, max_entries, is_last=is_last)
        return store

    def values(self, binding: bytes = BINDING, refs: frozenset[str] = REFS) -> dict[str, bytes]:
        """What a process that starts now may use; whatever was there must not have been refused."""
        opened = self.store().open(refs, binding)
        assert opened.refused is None, opened.refused
        return {each.ref: each.value for each in opened.records}

    def refusal(self) -> str:
        """Why a process that starts now uses nothing of what was there; it must then have begun anew."""
        opened = self.store().open(REFS, BINDING)
        assert opened.refused is not None
        assert not opened.records
        self.keep(record(value=b"fetched again", at=self.now))
        assert self.values() == {FIRST: b"fetched again"}
        return str(opened.refused)

    def rows(self) -> Collection[Row]:
        """What the file holds."""
        found = self.store().examine()
        assert found is not None
        return found.rows

    def contents(self) -> bytes:
        """Every byte of every file."""
        return b"".join(path.read_bytes() for path in sorted(self.file.parents[1].rglob("*")) if path.is_file())


class Keeper:
    """A part of a host that keeps keys, and a counter if it can: implements `Wrapping` in memory.

    Args:
        interval: how long its counter's steps may wait; None if it keeps no counter.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.counts: dict[bytes, int] = {}
        self.is_there = True
        self._interval = interval

    def make(self) -> Wrapped:
        """Make a key, and a counter that begins anywhere."""
        self._check()
        name = os.urandom(8)
        self.kept[name], self.counts[name] = os.urandom(32), 1000
        return Wrapped(name, self.kept[name])

    def open(self, parameters: bytes) -> bytes:
        """Find a key."""
        self._check()
        if parameters not in self.kept:
            raise RefusedError("the double has no such key")
        return self.kept[parameters]

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """The counter beside the key."""
        return None if self._interval is None else _Count(self, parameters, self._interval)

    def forget(self, parameters: bytes) -> None:
        """Forget key and counter."""
        self.kept.pop(parameters, None)
        self.counts.pop(parameters, None)

    def _check(self) -> None:
        if not self.is_there:
            raise UnavailableError("the double is away", hint="bring it back")


class _Count:
    def __init__(self, keeper: Keeper, name: bytes, interval: float) -> None:
        self._keeper = keeper
        self._name = name
        self.interval_seconds = interval

    def value(self) -> int:
        if self._name not in self._keeper.counts:
            raise RefusedError("the double's counter is gone")
        return self._keeper.counts[self._name]

    def advance(self) -> None:
        self._keeper.counts[self._name] += 1


def copied(host: Host, folder: Path) -> None:
    """Copy everything of a host."""
    shutil.copytree(host.file.parents[1], folder, dirs_exist_ok=True)
