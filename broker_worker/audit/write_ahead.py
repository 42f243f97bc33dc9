"""The write-ahead file: the newest lines of a worker's audit once more, where a sync is cheap.

A sync after an append has the file system write a new length, in its journal and with whatever else the journal
holds back. A file whose blocks were all written before only has its data synced. So a batch is made durable here, and
the chain's file is synced when this one is full: until then it may hold its newest lines in the page cache only.

A round is what was written since the chain's file was last synced: whole lines from offset 0 on, byte for byte those
at the end of the chain's file. What stands behind it is left from earlier rounds, and means nothing.
"""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from broker_worker.audit.plain_file import SAFE_FLAGS, NamedFile, sync_data, write_at
from broker_worker.private_files import sync_folder

WRITE_AHEAD_BYTES: Final = 8 * 1024 * 1024
PAYS: Final = sys.platform != "darwin" and hasattr(os, "fdatasync") and hasattr(os, "pwrite")
"""Whether a sync of data alone exists here. On macOS, a sync always empties the drive's cache."""
_BLOCK = 1024 * 1024
_NO_LINE: Final = b"\n"
"""Written over the beginning of a line, this ends what a restart takes."""
_FAILED: Final = b""
"""Staged is nothing that counts: a kernel may report a failed write once and forget the pages."""
_log = structlog.get_logger()


class WriteAhead:
    """A file of a fixed size that a round of batches is written to, over what an earlier round left.

    Args:
        path: the file; what was there is removed.
        size: its size in bytes, all of which are written now.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path, size: int = WRITE_AHEAD_BYTES) -> None:
        self._path = path
        self._size = size
        self._used = 0
        self._staged: bytes | None = None
        """What stands behind the round; `_FAILED` if that is not known."""
        self._is_told = False
        path.unlink(missing_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFE_FLAGS, 0o600)
        try:
            self._file = NamedFile(self._fd, path)
            for offset in range(0, size, _BLOCK):
                write_at(self._fd, bytes(min(_BLOCK, size - offset)), offset)
            os.fsync(self._fd)
            sync_folder(path.parent)
        except BaseException:
            self.remove()
            raise

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still there under its name, as long as it was made: a restart would find it."""
        try:
            return self._file.size_under_name() == self._size
        except OSError:
            return False

    def stage(self, batch: bytes) -> bool:
        """Write a batch behind the round, where it is no part of it yet, and have the disk begin with it.

        Args:
            batch: whole lines that will probably be appended next; what was staged before is written over.

        Returns:
            Whether it stands there. `append` of the same object then only has to wait for the disk.
        """
        if not self._write(batch):
            return False
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # Linux begins to write what it is told will not be needed, and keeps what is dirty
                os.posix_fadvise(self._fd, self._used, len(batch), os.POSIX_FADV_DONTNEED)
        return True

    def withdraw(self) -> None:
        """Make sure that what was staged is not taken for a part of the round after a crash."""
        if self._staged is not None:
            self._staged = None
            try:
                write_at(self._fd, _NO_LINE, self._used)
                sync_data(self._fd)
            except OSError as error:  # a restart may then find records of what was decided and not released
                self._tell(error)

    def append(self, batch: bytes) -> bool:
        """Make a batch part of the round, on disk.

        Args:
            batch: whole lines, those that were just written to the chain's file.

        Returns:
            Whether the batch is durable. If not, because there is no room or the file fails, the round is what it was:
            the caller then syncs the chain's file and begins a new round with `reset`.
        """
        if not self.is_in_place:
            self._tell(OSError(errno.ESTALE, "was removed, exchanged or cut"))
            self._staged = None
            return False
        if self._staged is not batch and not self._write(batch):
            return False
        try:
            sync_data(self._fd)
        except OSError as error:
            self._tell(error)
            self._staged = _FAILED
            return False
        self._used += len(batch)
        self._staged = None
        self._is_told = False
        return True

    def _write(self, batch: bytes) -> bool:
        """Write a batch behind the round; False if there is no room, or the file fails."""
        if self._used + len(batch) > self._size:
            return False
        self._staged = batch
        try:
            write_at(self._fd, batch, self._used)
        except OSError as error:
            self._tell(error)
            self._staged = None
            return False
        return True

    def read(self) -> bytes:
        """The round.

        Raises:
            OSError: if it cannot be read, or is no longer there.
        """
        content = b""
        while len(content) < self._used:
            block = os.pread(self._fd, self._used - len(content), len(content))
            if not block:
                raise OSError(errno.ESTALE, "is shorter than it was", str(self._path))
            content += block
        return content

    def reset(self) -> None:
        """Begin a new round: everything in the chain's file is on disk."""
        self._used, self._staged = 0, None

    def remove(self) -> None:
        """Close the file and remove it; nothing in it is needed any more."""
        self.close()
        with suppress(OSError):  # what is left chains to nothing, and the next start takes it away
            self._path.unlink()

    def close(self) -> None:
        """Close the file and leave it for the next start to read."""
        os.close(self._fd)

    def _tell(self, error: OSError) -> None:
        """Log what failed, once until it works again."""
        if not self._is_told:
            self._is_told = True
            tell_slower(self._path, error)


def tell_slower(path: Path, error: OSError) -> None:
    """Log that a worker's audit goes on without its write-ahead file."""
    reason = error.strerror or type(error).__name__
    _log.warning("the audit's write-ahead file cannot be used; syncing the audit itself", file=path.name, error=reason)
