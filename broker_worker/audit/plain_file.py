"""The few system calls with which the audit's files are written: opening without surprises, writing, syncing."""

import errno
import os
import stat
import sys
import time
from pathlib import Path
from typing import Final

SAFE_FLAGS: Final[int] = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
"""No link is followed, no pipe's reader is waited for, no Windows newlines."""
LOOK_UP_NS: Final = 1_000_000_000
"""How long the name of a file that is open is believed, nanoseconds."""


def plain_file_status(descriptor: int, path: Path) -> os.stat_result:
    """The status of an open file.

    Raises:
        OSError: if it is no plain file.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    return status


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """What a file keeps when it is renamed and another one does not have: device and inode."""
    return status.st_dev, status.st_ino


class NamedFile:
    """An open file, and the name that a restart would look for it under.

    Linux says what an open file is called now, which changes when it is removed or renamed. To ask for the status of
    the name instead would be felt: Linux gives each write after that a time of its own, which some file systems then
    write to the disk with every sync (multigrain timestamps, Linux 6.13). So that is done about once a second, for what
    the file's own name does not show: another file system over its folder, a link that leads elsewhere now, another
    host that shares the folder. And every time where nothing says what the file is called.

    Args:
        descriptor: the open file.
        path: its name.

    Raises:
        OSError: if it is no plain file.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.status = plain_file_status(descriptor, path)
        """What it was when it was opened."""
        self._descriptor = descriptor
        self._path = path
        self._name = _name_of(descriptor)
        self._look_up_at = 0

    def is_at(self, status: os.stat_result) -> bool:
        """Whether a status is of this file."""
        return identity_of(status) == identity_of(self.status)

    def size_under_name(self) -> int | None:
        """The size of what the name stands for; None if that is another file.

        Raises:
            FileNotFoundError: if it stands for nothing.
            OSError: if that cannot be found out.
        """
        now = time.monotonic_ns()
        if now >= self._look_up_at or self._name is None or _name_of(self._descriptor) != self._name:
            if not self.is_at(os.stat(self._path)):  # noqa: PTH116  # once a batch, perhaps: half of what Path.stat costs
                return None
            self._look_up_at = now + LOOK_UP_NS
        return os.lseek(self._descriptor, 0, os.SEEK_END)


def _name_of(descriptor: int) -> str | None:
    """What Linux calls an open file now (proc(5), "/proc/pid/fd"); None where nothing says it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # several times a batch
    except OSError:
        return None


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content` at an offset of a file that was not opened for appending.

    Raises:
        OSError: if not all of it could be written.
    """
    written = os.pwrite(descriptor, content, offset)
    while written < len(content):  # a full disk or a limit shows as a short write first, as an error next
        written += os.pwrite(descriptor, content[written:], offset + written)


def sync_data(descriptor: int) -> None:
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
