"""One append-only file on disk: a batch is one write and one sync, and a batch that failed leaves nothing behind."""

import errno
import os
from pathlib import Path

from broker_worker.audit.plain_file import SAFE_FLAGS, NamedFile, sync_data, write_at
from broker_worker.audit.write_ahead import WriteAhead
from broker_worker.private_files import sync_folder


class JournalLostError(OSError):
    """The file under its name is no longer the one that was written, or no longer as long."""


class Journal:
    """An open file that is only ever appended to.

    Args:
        path: the file; made if it is not there, with mode 0600.
        size: how many bytes of it are kept; what follows is cut off.

    Raises:
        JournalLostError: if the file is shorter than `size`.
        OSError: if it cannot be opened, or is no plain file.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        """Bytes that are known to be on disk, here or in the write-ahead's round, which is then the end of them."""
        self.is_clean = False
        """Whether the file ends where it should; `roll_back` makes it so."""
        self.write_ahead: WriteAhead | None = None
        """Where batches are made durable while it has room; without one, the file itself is synced for every batch."""
        self._is_doubtful = False
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | SAFE_FLAGS, 0o600)
        try:
            self._file = NamedFile(self._fd, path)
            self.is_clean = self._file.status.st_size == size
            if size == 0:
                sync_folder(path.parent)
            if not self.is_clean:
                self.roll_back()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, batch: bytes) -> None:
        """Write a batch behind what is there and make it durable.

        Args:
            batch: whole lines.

        Raises:
            JournalLostError: if the file was exchanged, removed or cut since the last batch; nothing was written.
            OSError: if it could not be written or synced; `roll_back` is then due.
        """
        if self._size_under_name() != self.size:
            raise JournalLostError(errno.ESTALE, "has another length than was written", str(self.path))
        self.is_clean = False
        written = os.write(self._fd, batch)
        while written < len(batch):  # a full disk or a limit shows as a short write first, as an error next
            written += os.write(self._fd, batch[written:])
        if self.write_ahead is None or not self.write_ahead.append(batch):
            self.sync()
        self.size += written
        self.is_clean = True

    def roll_back(self) -> None:
        """Cut off what a failed batch left, and sync the file.

        Raises:
            JournalLostError: if the file is not the one that was written, or shorter than it was.
            OSError: if it cannot be cut.
        """
        if self._size_under_name() < self.size:
            raise JournalLostError(errno.ESTALE, "is shorter than it was", str(self.path))
        os.ftruncate(self._fd, self.size)
        self.sync()
        self.is_clean = True

    def sync(self) -> None:
        """Have everything in the file on disk, and begin a new round of the write-ahead.

        Raises:
            OSError: if that fails; the round then stays as it is.
        """
        if self._is_doubtful and self.write_ahead is not None:
            self._write_again(self.write_ahead.read())
        self._is_doubtful = True
        sync_data(self._fd)
        self._is_doubtful = False
        if self.write_ahead is not None:
            self.write_ahead.reset()

    def settle(self) -> None:
        """Leave the file synced, and without what a failed batch left.

        Raises:
            OSError: if that fails.
        """
        if self.is_clean:
            self.sync()
        else:
            self.roll_back()

    def close(self) -> None:
        """Close the file; what is not on disk here is in the write-ahead's round."""
        os.close(self._fd)

    def _write_again(self, content: bytes) -> None:
        """Write the end of the file again: after a sync that failed, the next may succeed without having tried."""
        descriptor = os.open(self.path, os.O_WRONLY | SAFE_FLAGS)
        try:
            if not self._file.is_at(os.fstat(descriptor)):
                raise JournalLostError(errno.ESTALE, "was exchanged for another file", str(self.path))
            write_at(descriptor, content, self.size - len(content))
        finally:
            os.close(descriptor)

    def _size_under_name(self) -> int:
        """The size of what the file's name stands for: this finds removal, exchange and truncation."""
        try:
            size = self._file.size_under_name()
        except FileNotFoundError:
            raise JournalLostError(errno.ESTALE, "was removed", str(self.path)) from None
        if size is None:
            raise JournalLostError(errno.ESTALE, "was exchanged for another file", str(self.path))
        return size
