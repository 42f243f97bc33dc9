"""Where records become durable: chained, signed, written and synced, once for a batch, before anything is released."""

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

import nacl.bindings as sodium
from filelock import FileLock, Timeout
from msgspec import structs

from agent_sdk.wire.audit import MAX_LINE, AuditRecord, encode_checkpoint, encode_line, format_time, line_hash
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_worker_name
from broker_worker.audit.chain_files import (
    HEAD_SUFFIX,
    LOCK_SUFFIX,
    WRITE_AHEAD_SUFFIX,
    Position,
    chain_file,
    new_chain_id,
)
from broker_worker.audit.head import HeadKeeper
from broker_worker.audit.journal import Journal, JournalLostError
from broker_worker.audit.recovery import Recovery, find_tail
from broker_worker.audit.restoration import restore_lines
from broker_worker.audit.write_ahead import PAYS, WRITE_AHEAD_BYTES, WriteAhead, tell_slower
from broker_worker.core.errors import AuditError, SetupError
from broker_worker.ports import Clock
from broker_worker.private_files import make_private_folder

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""A file is followed by the next one when it has reached this size."""
_CLIPPED_TEXT = 128
_HINTS = {
    errno.ENOSPC: "free some space; the broker goes on by itself",
    errno.EDQUOT: "raise the quota or free some space; the broker goes on by itself",
    errno.EROFS: "mount the file system writable; the broker goes on by itself",
    errno.ESTALE: "someone changed the audit: run `secret-broker audit verify`",
}


class AuditInUseError(SetupError):
    """Another process writes this worker's chain."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Records chained and signed ahead, for a chain that ends at `end`."""

    records: Sequence[AuditRecord]
    end: Position
    batch: bytes
    checkpoint: bytes


class JsonlSink:
    """The audit of one worker: a chain of JSON lines on disk.

    After a failed batch the file is cut back to the last good one; where that is impossible, or the file was removed
    or exchanged, the next batch begins a new chain that holds the hash of the last good line. So the broker heals when
    the disk does, and what someone did to the files stays visible.

    Args:
        folder: where the chains are; made with mode 0700.
        worker: the worker's canonical name, the same after a restart.
        identity_seed: the 32-byte seed of the broker's Ed25519 identity, which signs the checkpoints.
        clock: the time.
        max_file_bytes: when to begin the next file.
        write_ahead_bytes: the size of the write-ahead file, where batches are synced; 0 for none.

    Raises:
        AuditInUseError: if another process writes this worker's chain.
        SetupError: if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        identity_seed: bytes,
        clock: Clock,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        write_ahead_bytes: int = WRITE_AHEAD_BYTES if PAYS else 0,
    ) -> None:
        self._folder = folder
        self._worker = _checked(worker)
        public, self._secret = sodium.crypto_sign_seed_keypair(identity_seed)
        self._clock = clock
        self._max_file_bytes = max_file_bytes
        self._write_ahead_bytes = write_ahead_bytes
        self._write_ahead: WriteAhead | None = None
        self._mutex = Lock()
        self._listeners: list[Callable[[], None]] = []
        self._journal: Journal | None = None
        self._ahead: _Ahead | None = None
        self._end: Position
        make_private_folder(folder)
        self._writer = FileLock(folder / f"{worker}{LOCK_SUFFIX}", mode=0o600, thread_local=False)
        self._acquire()
        try:
            self._open(public)
        except OSError as error:
            self._writer.release()
            raise SetupError(
                f"cannot open the audit in {folder}: {error.strerror}", hint="check the folder's owner and modes"
            ) from error
        except BaseException:
            self._writer.release()
            raise
        self._head = HeadKeeper(folder / f"{worker}{HEAD_SUFFIX}")

    @property
    def position(self) -> Position:
        """Where the next line will stand: everything before it is on disk."""
        return self._end

    @property
    def recovery(self) -> Recovery:
        """What was out of the ordinary when the audit was opened; its text belongs into `worker_started`."""
        return self._recovery

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have a cheap, thread-safe function called after every batch that is on disk."""
        self._listeners.append(listener)

    def prepare(self, records: Sequence[AuditRecord], *, begin: bool = False) -> None:
        """Chain and sign ahead what will probably be appended next.

        `append` uses it if it is given the same sequence and the chain still ends as it does now. Nothing of it remains
        otherwise, but a crash after `begin` can leave it: then the audit has records of what was not released.

        Args:
            records: the very sequence that will be appended, unchanged; nothing takes back what was prepared.
            begin: have the disk begin with it.
        """
        with self._mutex:
            self._ahead = None
            with suppress(WireError, TypeError, ValueError):  # `append` says what is wrong
                self._ahead = _Ahead(records, self._end, *self._chain_up(records)) if records else None
            ahead, journal = self._ahead, self._journal
            if self._write_ahead is None:
                return
            is_begun = False
            if begin and ahead is not None and journal is not None and journal.is_clean:
                is_begun = self._write_ahead.stage(ahead.batch)
            if not is_begun:
                self._write_ahead.withdraw()

    def append(self, records: Sequence[AuditRecord]) -> None:
        """Chain the records, write them with a signed checkpoint and sync it all to disk, once for the batch.

        Args:
            records: in the order in which they happened; may be called from any thread.

        Raises:
            AuditError: if that did not happen; the caller then releases nothing.
        """
        if not records:
            return
        with self._mutex:
            try:
                journal = self._ready_journal()
                ahead, self._ahead = self._ahead, None
                if ahead is None or ahead.records is not records or ahead.end is not self._end:
                    ahead = _Ahead(records, self._end, *self._chain_up(records))
                batch, checkpoint = ahead.batch, ahead.checkpoint
                journal.append(batch)
            except OSError as error:
                if self._write_ahead is not None:
                    self._write_ahead.withdraw()
                self._undo(error)
                raise _cannot_write(error) from error
            except (WireError, TypeError, ValueError) as error:
                # from None: what could not be encoded is text that somebody else chose
                raise AuditError(f"an audit record cannot be encoded: {type(error).__name__}") from None
            self._prev = line_hash(checkpoint)
            self._end = Position(self._end.file, journal.size, self._end.sequence + len(records) + 1)
            self._head.note(checkpoint)
        for listener in self._listeners:
            listener()

    def close(self) -> None:
        """Write the head, sync and close the file, and let another process write the chain."""
        with self._mutex:
            if not self._writer.is_locked:
                return
            self._head.close()
            self._close_files()
            self._writer.release()

    def _close_files(self) -> None:
        journal, self._journal = self._journal, None
        ahead, self._write_ahead = self._write_ahead, None
        try:
            if journal is not None:
                journal.settle()
        except OSError:  # the next start finds in the write-ahead what is not on disk
            if ahead is not None:
                ahead.close()
        else:
            if ahead is not None:
                ahead.remove()
        if journal is not None:
            journal.close()

    def _acquire(self) -> None:
        try:
            self._writer.acquire(timeout=0)
        except Timeout:
            raise AuditInUseError(
                f"another process writes the audit of worker {self._worker!r} in {self._folder}",
                hint="stop it, or give this worker another name",
            ) from None
        except OSError as error:
            raise SetupError(
                f"cannot lock the audit in {self._folder}: {error.strerror}", hint="check the folder's owner and modes"
            ) from error
        for leftover in self._folder.glob(f".{self._worker}{HEAD_SUFFIX}.*"):
            leftover.unlink(missing_ok=True)  # a head that a killed process was about to write

    def _open(self, identity_public_key: bytes) -> None:
        restored = restore_lines(self._folder, self._worker, identity_public_key)
        tail = find_tail(self._folder, self._worker, identity_public_key)
        self._recovery = replace(tail.recovery, restored_lines=restored)
        self._prev = tail.prev
        if tail.end is None:
            self._begin_file(new_chain_id(tail.chain), 0)
        else:
            self._journal = Journal(tail.end.file.path, tail.end.offset)
            self._journal.write_ahead = self._ready_write_ahead()
            self._end = tail.end

    def _begin_file(self, chain: str, first: int) -> Journal:
        file = chain_file(self._folder, self._worker, chain, first)
        journal = Journal(file.path)
        journal.write_ahead = self._ready_write_ahead()
        if self._journal is not None:
            self._journal.close()
        self._journal, self._end = journal, Position(file, 0, first)
        return journal

    def _ready_write_ahead(self) -> WriteAhead | None:
        """A write-ahead with no round begun, if there can be one; everything in the files so far is on disk."""
        ahead, self._write_ahead = self._write_ahead, None
        if ahead is not None and ahead.is_in_place:
            ahead.reset()
            self._write_ahead = ahead
            return ahead
        path = self._folder / f"{self._worker}{WRITE_AHEAD_SUFFIX}"
        try:
            if ahead is not None:
                ahead.close()
            if self._write_ahead_bytes:
                self._write_ahead = WriteAhead(path, self._write_ahead_bytes)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            tell_slower(path, error)
        return self._write_ahead

    def _ready_journal(self) -> Journal:
        """The file that the next batch goes to, clean and with room."""
        if not self._writer.is_locked:
            raise AuditError("the audit is closed")
        if self._journal is not None and not self._journal.is_clean:
            try:
                self._journal.roll_back()
            except JournalLostError:
                self._abandon()
            except OSError:
                self._journal.sync()  # else there may be lines that only the write-ahead holds
                self._abandon()
        if self._journal is None:
            return self._begin_file(new_chain_id(self._end.file.chain), 0)
        if self._journal.size >= self._max_file_bytes:
            self._journal.sync()
            return self._begin_file(self._end.file.chain, self._end.sequence)
        return self._journal

    def _undo(self, error: OSError) -> None:
        """Cut off what a failed batch left; if that fails too, the next batch tries again before a new chain begins."""
        lost = isinstance(error, JournalLostError)
        if not lost and self._journal is not None and not self._journal.is_clean:
            try:
                self._journal.roll_back()
            except JournalLostError:
                lost = True
            except OSError:
                return
        if lost:
            self._abandon()

    def _abandon(self) -> None:
        """Never write the file again; the next batch begins a new chain."""
        if self._journal is not None:
            with suppress(OSError):  # a file that was removed or exchanged may have gone with its disk
                self._journal.sync()
            with suppress(OSError):
                self._journal.close()
            self._journal = None

    def _chain_up(self, records: Sequence[AuditRecord]) -> tuple[bytes, bytes]:
        """The batch's bytes, and the line of the checkpoint that ends them."""
        worker, chain, sequence, prev = self._worker, self._end.file.chain, self._end.sequence, self._prev
        lines = []
        for record in records:
            line = encode_line(record, worker, chain, sequence, prev)
            if len(line) > MAX_LINE:
                line = encode_line(_clipped(record), worker, chain, sequence, prev)
            lines.append(line)
            prev = line_hash(line)
            sequence += 1
        timestamp = format_time(self._clock.now())
        checkpoint = encode_checkpoint(self._secret, timestamp, worker, chain, sequence, prev)
        lines += [checkpoint, b""]
        return b"\n".join(lines), checkpoint


def _checked(worker: str) -> str:
    try:
        return check_worker_name(worker)
    except WireError as error:
        raise SetupError(str(error), hint="name the worker like worker-1") from None


def _clipped(record: AuditRecord) -> AuditRecord:
    """The record with every long text shortened, so that no text that somebody chose can stop the audit."""
    texts = {
        name: value[: _CLIPPED_TEXT - 1] + "…"
        for name, value in structs.asdict(record).items()
        if isinstance(value, str) and len(value) > _CLIPPED_TEXT
    }
    return structs.replace(record, **texts)


def _cannot_write(error: OSError) -> AuditError:
    where = f"{error.filename}: " if error.filename else ""
    return AuditError(
        f"cannot write the audit: {where}{error.strerror or type(error).__name__}",
        hint=_HINTS.get(error.errno or 0, "check the disk and the audit folder; the broker goes on by itself"),
    )
