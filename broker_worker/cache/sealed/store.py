"""One installation's sealed cache: its file, its wrapped key and its counter, used together and under one lock.

Whatever is wrong with them costs values that can be fetched again, so a file that cannot be trusted is replaced by an
empty one with a new key. Only where the key's keeper does not answer, or a newer program wrote the file, it stays as
it is: that may pass.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from broker_worker.cache.sealed.counter import Counter, FileCounter, check_generation
from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.file import SealedFile
from broker_worker.cache.sealed.format import Head, Record, Row, Sealer
from broker_worker.cache.sealed.key_file import KeyFile, WrappedKey
from broker_worker.cache.sealed.wrapping import Wrapped, Wrappings
from broker_worker.core.errors import BrokerError, SetupError
from broker_worker.private_files import make_private_folder

LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Open:
    """A key that is open, with what belongs to it."""

    wrapped: WrappedKey
    master: bytes = field(repr=False)
    sealer: Sealer = field(repr=False)
    counter: Counter = field(repr=False)


class Opened(NamedTuple):
    """What came of opening the sealed cache.

    Args:
        records: what may be used.
        kind: what wraps the master key.
        refused: why what was there is not used; None if nothing was, or it is.
    """

    records: Collection[Record]
    kind: str
    refused: RefusedError | None


class Status(NamedTuple):
    """What is known of a sealed cache that opens.

    Args:
        kind: what wraps the master key.
        key_id: names the master key.
        rows: what it holds, without values.
        generation: how many steps its counter took.
        size: of the file, bytes.
    """

    kind: str
    key_id: bytes
    rows: Collection[Row]
    generation: int
    size: int


class SealedStore:
    """Opens, writes, examines and replaces a sealed cache. Not for several threads at once; for several processes.

    Args:
        file: the SQLite file.
        key_file: where the wrapped master key is; the counter's file stands beside it.
        wrappings: what can wrap it.
        now: the time, ms since the epoch.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        file: Path,
        key_file: KeyFile,
        wrappings: Wrappings,
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = SealedFile(file)
        self.key_file = key_file
        self._wrappings = wrappings
        self._now = now
        self._monotonic = monotonic
        self._lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS, mode=0o600)
        self._open: _Open | None = None
        self._seen = 0
        self._stepped_at = float("-inf")
        self._is_unstepped = False

    def open(self, refs: Collection[str], binding: bytes) -> Opened:
        """Read what may still be used; make an empty cache where there is none, or none that can be trusted.

        Args:
            refs: the references that the registry knows.
            binding: what the providers' sections say; records that were made under others are dropped.

        Raises:
            UnavailableError: if what keeps the key does not answer.
            SetupError: if something cannot be read or made.
        """
        with self._locked():
            try:
                found = self._unwrapped()
                if found is not None:
                    now = self._now()
                    good = _Good(refs, binding, now)
                    head, records = self.file.load(found.sealer, lambda head: self._check(found, head, now), good)
                    self._use(found, head)
                    return Opened(records, found.wrapped.kind, None)
                is_there = self.file.path.exists()
                refused = RefusedError(f"{self.key_file.path} is gone, and with it the key") if is_there else None
            except RefusedError as error:
                refused = error
            return Opened((), self._start_over().wrapped.kind, refused)

    def commit(self, changes: Mapping[str, Record | None], max_entries: int, *, is_last: bool = False) -> None:
        """Write changes; step the counter if it is time, or if these are this process's last.

        Args:
            changes: per reference its record, or None if there is no value any more.
            max_entries: how many records there may be.
            is_last: whether this process writes nothing more.

        Raises:
            RefusedError: if the file or its key is not what was written last; nothing was written.
            UnavailableError: if what keeps the key does not answer.
            SetupError: if it cannot be written; it is then as it was.
        """
        with self._locked():
            found = self._unwrapped()
            if found is None:
                raise RefusedError("the sealed cache was cleared")
            is_unstepped = self._is_unstepped or bool(changes)
            waited = self._monotonic() - self._stepped_at
            is_due = is_unstepped and (is_last or waited >= found.counter.interval_seconds)
            count = found.counter.value() if is_due else None

            def next_head(head: Head) -> int:
                if found is self._open and head.generation < self._seen:
                    raise RefusedError("the sealed cache was exchanged for an older copy while it was in use")
                if count is None:
                    return head.generation
                check_generation(head, count)
                return count + 1

            head = self.file.commit(found.sealer, changes, self._now(), max_entries, next_head)
            self._use(found, head)
            self._is_unstepped = is_unstepped
            if is_due:
                self._stepped_at = self._monotonic()
                found.counter.advance()
                self._is_unstepped = False

    def start_over(self) -> str:
        """Replace what is there by an empty cache with a new key, unless another process just did.

        Returns:
            What wraps the new key.

        Raises:
            UnavailableError: if this host cannot keep a key as it is meant to.
            SetupError: if something cannot be made.
        """
        with self._locked():
            with suppress(RefusedError):
                found = self._unwrapped()
                if found is not None and found is not self._open:
                    head, _ = self.file.examine(found.sealer, lambda head: self._check(found, head, self._now()))
                    self._use(found, head)
                    return found.wrapped.kind
            return self._start_over().wrapped.kind

    def examine(self) -> Status | None:
        """What there is, changing nothing; None if there is no sealed cache yet.

        Raises:
            RefusedError: if it would not be used.
            UnavailableError: if what keeps the key does not answer.
            SetupError: if something cannot be read.
        """
        if not self.key_file.path.exists() and not self.file.path.exists():
            return None
        with self._locked():
            found = self._unwrapped()
            if found is None:
                raise RefusedError(f"{self.key_file.path} is gone, and with it the key")
            head, rows = self.file.examine(found.sealer, lambda head: self._check(found, head, self._now()))
            size = self.file.path.stat().st_size
            return Status(found.wrapped.kind, found.wrapped.key_id, rows, head.generation, size)

    def clear(self) -> None:
        """Remove file, key and counter: no copy of the file opens any more.

        Raises:
            SetupError: if something cannot be removed.
        """
        with self._locked():
            self._remove()

    def rewrap(self) -> tuple[str, str]:
        """Wrap the master key anew, in the way that the section names; the records stay.

        Returns:
            What wrapped it, and what wraps it now.

        Raises:
            RefusedError: if there is nothing to rewrap, or it cannot be trusted.
            UnavailableError: if what keeps the old or the new key does not answer.
            SetupError: if something cannot be written.
        """
        with self._locked():
            before = self._unwrapped(is_any_kind=True)
            if before is None:
                raise RefusedError(
                    "there is no sealed cache yet", hint="a worker makes it, wrapped as broker.yaml says"
                )
            now = self._now()
            head, _ = self.file.examine(before.sealer, lambda head: self._check(before, head, now))
            kind, wrapped = self._wrappings.make()
            with self._forgetting(kind, wrapped):
                # A crash from here on leaves a generation that no counter knows: an empty cache, never a wrong one.
                count = self._start_counter(kind, wrapped)
                self.file.commit(before.sealer, {}, now, head.count, lambda _: count)
                self.key_file.write(kind, wrapped, before.master)
            self._wrappings.of(before.wrapped.kind).forget(before.wrapped.parameters)
            return before.wrapped.kind, kind

    def _unwrapped(self, *, is_any_kind: bool = False) -> _Open | None:
        """The open key: the one that is known, if the file still holds that."""
        wrapped = self.key_file.read()
        if wrapped is None:
            return None
        if self._open is not None and self._open.wrapped.raw == wrapped.raw:
            return self._open
        if not is_any_kind and not self._wrappings.is_meant(wrapped.kind):
            raise RefusedError(
                f"the sealed cache's key is wrapped by {wrapped.kind}, and broker.yaml says otherwise",
                hint="`secret-broker cache rewrap` before a start keeps the values",
            )
        return self._opened(wrapped, self._wrappings.of(wrapped.kind).open(wrapped.parameters))

    def _check(self, found: _Open, head: Head, now: int) -> None:
        """Refuse an older copy, and a clock that went back: nobody then knows how old anything is."""
        check_generation(head, found.counter.value())
        if now < head.seen_at:
            raise RefusedError(
                f"the clock went back by {head.seen_at - now} ms since the sealed cache was written",
                hint="run an NTP client",
            )

    def _use(self, found: _Open, head: Head) -> None:
        if self._open is not found:
            self._seen, self._stepped_at, self._is_unstepped = 0, self._monotonic(), False
        self._open = found
        self._seen = max(self._seen, head.generation)

    def _start_over(self) -> _Open:
        kind, wrapped = self._wrappings.make()
        with self._forgetting(kind, wrapped):
            self._remove()
            count = self._start_counter(kind, wrapped)
            made = self.key_file.write(kind, wrapped)
        found = self._opened(made, wrapped.key)
        self.file.create(found.sealer, count, self._now())
        self._open, self._seen, self._stepped_at, self._is_unstepped = found, count, self._monotonic(), False
        return found

    def _opened(self, wrapped: WrappedKey, key: bytes) -> _Open:
        master = wrapped.unwrap(key)
        counter = self._wrappings.of(wrapped.kind).counter(wrapped.parameters, key)
        return _Open(wrapped, master, Sealer(master), counter or FileCounter(self._counter_path, key))

    @contextmanager
    def _forgetting(self, kind: str, wrapped: Wrapped) -> Iterator[None]:
        """Have the host forget a new wrapping key that is not stored in the end."""
        try:
            yield
        except BaseException:
            self._wrappings.of(kind).forget(wrapped.parameters)
            raise

    def _start_counter(self, kind: str, wrapped: Wrapped) -> int:
        """What the counter of a new wrapping key says; a file is made if the host keeps none."""
        counter = self._wrappings.of(kind).counter(wrapped.parameters, wrapped.key)
        if counter is not None:
            self._counter_path.unlink(missing_ok=True)
            return counter.value()
        make_private_folder(self._counter_path.parent)
        FileCounter(self._counter_path, wrapped.key).start(0)
        return 0

    def _remove(self) -> None:
        self._open = None
        with suppress(BrokerError):  # what cannot be read names nothing that could be forgotten
            wrapped = self.key_file.read()
            if wrapped is not None:
                self._wrappings.of(wrapped.kind).forget(wrapped.parameters)
        self.file.remove()
        try:
            self.key_file.remove()
            self._counter_path.unlink(missing_ok=True)
        except OSError as error:
            raise SetupError(
                f"{self.key_file.path} cannot be removed: {error.strerror}", hint="check its folder's owner and mode"
            ) from error

    @property
    def _counter_path(self) -> Path:
        return self.key_file.path.with_suffix(".count")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time.

        Raises:
            SetupError: if the folder cannot be used, or another process holds the lock for too long.
        """
        make_private_folder(self.file.path.parent)
        try:
            self._lock.acquire()
        except Timeout:
            raise SetupError(
                f"the sealed cache was held by another process for {LOCK_SECONDS:.0f} s", hint="see which one hangs"
            ) from None
        except OSError as error:
            raise SetupError(
                f"the sealed cache's folder {self.file.path.parent} cannot be written: {error.strerror}",
                hint="check its owner, mode and free space",
            ) from error
        try:
            yield
        finally:
            self._lock.release()


class _Good:
    """Whether a row may still be used."""

    def __init__(self, refs: Collection[str], binding: bytes, now: int) -> None:
        self._refs = refs
        self._binding = binding
        self._now = now

    def __call__(self, row: Row) -> bool:
        return row.fetched_at <= self._now < row.until and row.binding == self._binding and row.ref in self._refs
