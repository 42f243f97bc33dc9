"""The few system calls with which the audit's files are written: opening without surprises, writing, syncing."""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

SAFE_FLAGS: Final[int] = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
"""No link is followed, no pipe's reader is waited for, no Windows newlines."""


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


def name_of(descriptor: int) -> str | None:
    """What Linux calls an open file now (proc(5), "/proc/pid/fd"); None where nothing says it.

    It changes when the file is removed or renamed. To ask for the file's status instead would be felt: Linux gives each
    write after that a time of its own, which some file systems then write to the disk with every sync (multigrain
    timestamps, Linux 6.13).
    """
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
