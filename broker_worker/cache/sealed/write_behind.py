"""Writes values behind the memory cache, from a thread of its own: nothing that serves ever waits for the file."""

import threading
from collections.abc import Callable, Collection
from typing import Final

import structlog

from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.format import Record
from broker_worker.cache.sealed.store import SealedStore
from broker_worker.core.errors import BrokerError
from broker_worker.ports import CachedValue

OPEN_SECONDS: Final = 10.0
"""How long a start waits for what keeps the master key: a keyring may ask a person who is not there."""
DELAY_SECONDS: Final = 1.0
"""How long changes are collected before they are written; a process that is killed loses no more."""
AGAIN_SECONDS: Final = 30.0
"""When something that failed is tried again."""
CLOSE_SECONDS: Final = 5.0
_READ_AT_START = "env://"
"""The environment is read anew by every process: a restart is how a change of it is taken."""

_log = structlog.get_logger()


class WriteBehind:
    """Implements `cache.memory.Keeper` with a sealed cache. Whatever goes wrong there is said once, and costs values.

    Args:
        store: the sealed cache; used by this object's thread only.
        binding: what the providers' sections say now.
        max_entries: how many records there may be.
        delay_seconds: how long changes are collected.
        again_seconds: when something that failed is tried again.
    """

    def __init__(
        self,
        store: SealedStore,
        binding: bytes,
        max_entries: int,
        delay_seconds: float = DELAY_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._store = store
        self._binding = binding
        self._max_entries = max_entries
        self._delay = delay_seconds
        self._again = again_seconds
        self._lock = threading.Lock()
        self._pending: dict[str, Record | None] = {}
        self._changed, self._closing, self._opened = threading.Event(), threading.Event(), threading.Event()
        self._records: Collection[Record] = ()
        self._refs: Collection[str] = ()
        self._is_open = self._is_late = False
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def start(self, refs: Collection[str], wait_seconds: float = OPEN_SECONDS) -> Collection[Record]:
        """Open the sealed cache and begin to write.

        Args:
            refs: the references that the registry knows.
            wait_seconds: how long to wait for it; after that this process begins with nothing.

        Returns:
            The records that may be used.
        """
        self._refs = frozenset(refs)
        self._thread = threading.Thread(target=self._run, name="sealed-cache", daemon=True)
        self._thread.start()
        if not self._opened.wait(wait_seconds):
            self._is_late = True
            self._say(f"it did not open within {wait_seconds:g} s", "does a keyring wait for somebody to unlock it?")
        records, self._records = self._records, ()
        return records

    def keep(self, ref: str, value: CachedValue, until: int) -> None:
        """Write a value soon; never waits. Values that were made for us, and taken back from us, are not written."""
        fetched = value.fetched
        if fetched.upstream_lease is None and not ref.startswith(_READ_AT_START):
            record = Record(ref, fetched.version, value.fetched_at, until, self._binding, fetched.value)
            self._note(ref, record)

    def drop(self, ref: str) -> None:
        """Remove a value soon: the vault says that there is none."""
        self._note(ref, None)

    def follow(self, binding: bytes, max_entries: int) -> None:
        """Take changed settings: what was fetched under other providers' sections is dropped when it is read."""
        self._binding, self._max_entries = binding, max_entries

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, and end. Waits for it, but no longer than that."""
        self._closing.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def _note(self, ref: str, record: Record | None) -> None:
        with self._lock:
            self._pending.pop(ref, None)
            self._pending[ref] = record
            if len(self._pending) > self._max_entries:
                del self._pending[next(iter(self._pending))]
        self._changed.set()

    def _run(self) -> None:
        self._guarded(self._open)
        self._opened.set()
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            self._closing.wait(self._delay)
            if not self._closing.is_set() and not self._guarded(self._write):
                self._closing.wait(self._again)
                self._changed.set()
        self._guarded(self._write)

    def _open(self) -> None:
        opened = self._store.open(self._refs, self._binding)
        self._is_open = True
        if not self._opened.is_set() and not self._is_late:
            self._records = opened.records
        if opened.refused is not None:
            self._warn(opened.refused, opened.kind)
        else:
            _log.info("sealed_cache_opened", records=len(opened.records), wrapped_by=opened.kind)

    def _write(self) -> None:
        with self._lock:
            changes, self._pending = self._pending, {}
        try:
            if not self._is_open:
                self._open()
            self._commit(changes)
        except BaseException:
            with self._lock:
                self._pending = {**changes, **self._pending}
            raise
        if self._trouble:
            self._trouble = ""
            _log.info("sealed_cache_written_again")

    def _commit(self, changes: dict[str, Record | None]) -> None:
        is_last = self._closing.is_set()
        try:
            self._store.commit(changes, self._max_entries, is_last=is_last)
        except RefusedError as error:
            if not changes:
                return  # the next start says so, and begins anew
            self._warn(error, self._store.start_over())
            self._store.commit(changes, self._max_entries, is_last=is_last)

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Run a step; what went wrong is logged, once as long as it is the same."""
        try:
            step()
        except BrokerError as error:
            self._say(str(error), error.hint)
        except Exception as error:  # noqa: BLE001  # a defect here must not end what serves; its text may hold a value
            self._say(f"unexpected {type(error).__name__}", "this is a defect")
        else:
            return True
        return False

    @staticmethod
    def _warn(error: RefusedError, kind: str) -> None:
        _log.warning("sealed_cache_started_over", reason=str(error), hint=error.hint, wrapped_by=kind)

    def _say(self, trouble: str, hint: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.error("sealed_cache_off", error=trouble, hint=hint, instead="values are kept in memory only")
