"""One installation's sealed cache: its file, its wrapped key and its counter, used together and under one lock.

Whatever is wrong with them costs values that can be fetched again, so a file that cannot be trusted is replaced by an
empty one with a new key. Only where the key's keeper does not answer, or a newer program wrote the file, it stays as
it is: that may pass.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from broker_worker.cache.sealed.counter import check_generation
from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.file import SealedFile
from broker_worker.cache.sealed.format import Head, Record, Row
from broker_worker.cache.sealed.key_file import KeyFile
from broker_worker.cache.sealed.master_key import MasterKey, OpenKey
from broker_worker.cache.sealed.wrapping import Wrappings
from broker_worker.core.errors import SetupError
from broker_worker.private_files import make_private_folder

LOCK_SECONDS = 5.0


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
        self._keys = MasterKey(key_file, wrappings)
        self._now = now
        self._monotonic = monotonic
        self._lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS, mode=0o600)
        self._key: OpenKey | None = None
        self._seen = 0
        self._stepped_at = 0.0
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
            refused = None
            try:
                key = self._keys.open(self._key)
                if key is not None:
                    good = _Good(refs, binding, self._now())
                    head, records = self.file.load(key.sealer, lambda head: self._check(key, head), good)
                    self._use(key, head.generation)
                    return Opened(records, key.kind, None)
                if self.file.path.exists():
                    refused = RefusedError(f"{self.key_file.path} is gone, and with it the key")
            except RefusedError as error:
                refused = error
            return Opened((), self._start_over(), refused)

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
            key = self._keys.open(self._key)
            if key is None:
                raise RefusedError("the sealed cache was cleared")
            is_new = key is not self._key
            is_unstepped = bool(changes) or (self._is_unstepped and not is_new)
            waited = self._monotonic() - self._stepped_at
            is_due = is_unstepped and (is_last or is_new or waited >= key.counter.interval_seconds)
            count = key.counter.value() if is_due else None

            def next_generation(head: Head) -> int:
                if not is_new and head.generation < self._seen:
                    raise RefusedError("the sealed cache was exchanged for an older copy while it was in use")
                if count is None:
                    return head.generation
                check_generation(head, count)
                return count + 1

            head = self.file.commit(key.sealer, changes, self._now(), max_entries, next_generation)
            self._use(key, head.generation)
            self._is_unstepped = is_unstepped
            if is_due:
                self._stepped_at = self._monotonic()
                key.counter.advance()
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
                key = self._keys.open(self._key)
                if key is not None and key is not self._key:
                    head, _ = self.file.examine(key.sealer, lambda head: self._check(key, head))
                    self._use(key, head.generation)
                    return key.kind
            return self._start_over()

    def examine(self) -> Status | None:
        """What there is, changing nothing; None if there is no sealed cache yet.

        Raises:
            RefusedError: if it would not be used.
            UnavailableError: if what keeps the key does not answer, or would keep none.
            SetupError: if something cannot be read.
        """
        if not self.key_file.path.exists() and not self.file.path.exists():
            self._keys.rehearse()
            return None
        with self._locked():
            key = self._keys.open(self._key)
            if key is None:
                raise RefusedError(f"{self.key_file.path} is gone, and with it the key")
            head, rows = self.file.examine(key.sealer, lambda head: self._check(key, head))
            return Status(key.kind, key.wrapped.key_id, rows, head.generation, self.file.path.stat().st_size)

    def clear(self) -> None:
        """Remove file, key and counter: no copy of the file opens any more.

        Raises:
            SetupError: if something cannot be removed.
        """
        with self._locked():
            self._key = None
            self.file.remove()
            self._keys.remove()

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
            before = self._keys.open(None, is_any_kind=True)
            if before is None:
                hint = "a worker makes it, wrapped as broker.yaml says"
                raise RefusedError("there is no sealed cache yet", hint=hint)
            head, _ = self.file.examine(before.sealer, lambda head: self._check(before, head))
            with self._keys.rewrapping(before) as after:
                # A crash from here on leaves a generation that no counter knows: an empty cache, never a wrong one.
                count = after.counter.value()
                self.file.commit(before.sealer, {}, self._now(), head.count, lambda _: count)
            return before.kind, after.kind

    def _check(self, key: OpenKey, head: Head) -> None:
        """Refuse an older copy, and a clock that went back: nobody then knows how old anything is."""
        check_generation(head, key.counter.value())
        went_back = head.seen_at - self._now()
        if went_back > 0:
            message = f"the clock went back by {went_back} ms since the sealed cache was written"
            raise RefusedError(message, hint="run an NTP client")

    def _use(self, key: OpenKey, generation: int) -> None:
        if self._key is not key:
            self._seen, self._stepped_at, self._is_unstepped = 0, self._monotonic(), False
        self._key = key
        self._seen = max(self._seen, generation)

    def _start_over(self) -> str:
        key = self._keys.make()
        count = key.counter.value()
        self.file.create(key.sealer, count, self._now())
        self._use(key, count)
        return key.kind

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
