"""A value as a file that stands in no folder: whoever inherits its descriptor can open its path.

On Linux it is a memory file (memfd_create) of mode 0600, sealed so that nobody can change it, and opening its path
gives a reader of its own each time. Elsewhere it is a temporary file of mode 0600 that was unlinked before anything was
written to it: the value may reach the disk, `/dev/fd/N` is one and the same reader however often it is opened, and a
second one has to seek back to the beginning.
"""

import os
import sys
import tempfile
from dataclasses import dataclass

_FIRST_DESCRIPTOR = 10
"""Lower ones are what shell scripts use for redirections of their own."""


@dataclass(frozen=True, slots=True)
class ValueFile:
    """A file that is open here and in what is started from here.

    Args:
        descriptor: its number, the same in the command.
        path: where the command can open it.
    """

    descriptor: int
    path: str

    def fill(self, value: bytes) -> None:
        """Write the value, once; afterwards nobody can change it, where the system can promise that."""
        rest = memoryview(value)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        if sys.platform == "linux":
            _seal(self.descriptor)


def open_value_file() -> ValueFile:
    """A file without a value yet, to be inherited by whatever is started.

    Raises:
        OSError: if the system has no room for it.
    """
    made = _in_memory() if hasattr(os, "memfd_create") else _unlinked()
    try:
        number = _move(made)
    finally:
        os.close(made)
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    return ValueFile(number, f"{folder}/{number}")


def _in_memory() -> int:
    """A memory file; its name says nothing, as others can read it."""
    assert sys.platform == "linux"
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _unlinked() -> int:
    descriptor, path = tempfile.mkstemp(prefix="secret-")  # 0600, and nobody else's
    os.unlink(path)  # noqa: PTH108  # mkstemp gives a string
    return descriptor


def _move(descriptor: int) -> int:
    """A duplicate out of the way, which is inherited."""
    import fcntl  # noqa: PLC0415  # exists on POSIX only

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_DESCRIPTOR)


def _seal(descriptor: int) -> None:
    """Forbid every change, and every change of that."""
    assert sys.platform == "linux"
    import fcntl  # noqa: PLC0415  # exists on POSIX only

    if hasattr(os, "memfd_create"):
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
