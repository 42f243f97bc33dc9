"""One append-only file on disk: a batch is one write and one sync, and a batch that failed leaves nothing behind."""

import errno
import os
import stat
import sys
from pathlib import Path

from broker_worker.private_files import sync_folder

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # no link, no waiting for a pipe's reader, no Windows newlines
    _FLAGS |= getattr(os, _flag, 0)


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
        """Bytes that are known to be on disk."""
        self.is_clean = False
        """Whether the file ends where it should; `roll_back` makes it so."""
        self._fd = os.open(path, _FLAGS, 0o600)
        try:
            status = _plain_file_status(self._fd, path)
            self._identity = (status.st_dev, status.st_ino)
            self.is_clean = status.st_size == size
            if size == 0:
                sync_folder(path.parent)
            if not self.is_clean:
                self.roll_back()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, batch: bytes) -> None:
        """Write a batch behind what is there and sync it.

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
        _sync(self._fd)
        self.size += written
        self.is_clean = True

    def roll_back(self) -> None:
        """Cut off what a failed batch left.

        Raises:
            JournalLostError: if the file is not the one that was written, or shorter than it was.
            OSError: if it cannot be cut.
        """
        if self._size_under_name() < self.size:
            raise JournalLostError(errno.ESTALE, "is shorter than it was", str(self.path))
        os.ftruncate(self._fd, self.size)
        _sync(self._fd)
        self.is_clean = True

    def close(self) -> None:
        """Close the file; everything in it is on disk already."""
        os.close(self._fd)

    def _size_under_name(self) -> int:
        """The size of what the file's name stands for now: one call finds removal, exchange and truncation."""
        try:
            status = os.stat(self.path)  # noqa: PTH116  # once a batch: half the cost of Path.stat
        except FileNotFoundError:
            raise JournalLostError(errno.ESTALE, "was removed", str(self.path)) from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise JournalLostError(errno.ESTALE, "was exchanged for another file", str(self.path))
        return status.st_size


def _plain_file_status(descriptor: int, path: Path) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    return status


def _sync(descriptor: int) -> None:
    """Have the disk itself take what was written."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  # not on Windows

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # on macOS fsync stops at the drive's cache
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.EINVAL}:
                raise
            os.fsync(descriptor)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
