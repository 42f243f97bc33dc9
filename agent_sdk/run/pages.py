"""Looks at what is in a pipe without taking it out, so that what need not be changed is passed on as it lies there.

On Linux a pipe's pages can be shown in a second pipe (tee(2)) and moved to where they go (splice(2)): what the command
wrote is copied once, to be searched, and not a second time to be written.
"""

import ctypes
import fcntl
import os
import stat
import sys
from typing import Final, Self

_WITHOUT_WAITING: Final = 2  # SPLICE_F_NONBLOCK


class Pages:
    """What is in a pipe.

    Args:
        source: the pipe's end that is read.
        shown: both ends of a pipe of our own, where it is looked at.
        capacity: how much that one keeps, in bytes.
    """

    def __init__(self, source: int, shown: tuple[int, int], capacity: int) -> None:
        self._source = source
        self._reading, self._showing = shown
        self._capacity = capacity
        self._tee = ctypes.CDLL(None, use_errno=True).tee
        self._tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
        self._tee.restype = ctypes.c_ssize_t

    @classmethod
    def of(cls, source: int, target: int, capacity: int) -> Self | None:
        """The pages of a pipe; None where they cannot be passed on: elsewhere than on Linux, or to a terminal.

        Args:
            source: what the command's output comes from.
            target: where it goes.
            capacity: how much is looked at once, in bytes.
        """
        if sys.platform != "linux" or not stat.S_ISFIFO(os.fstat(source).st_mode):
            return None
        if not stat.S_ISFIFO(os.fstat(target).st_mode):
            return None
        shown = os.pipe()
        try:
            return cls(source, shown, fcntl.fcntl(shown[1], fcntl.F_SETPIPE_SZ, capacity))
        except (OSError, AttributeError):  # the user has many pipes, or the C library lacks tee
            for end in shown:
                os.close(end)
            return None

    def look(self) -> bytes:
        """What is in the pipe, which stays there; nothing at its end.

        Raises:
            BlockingIOError: if nothing is there now.
            OSError: if it cannot be looked at.
        """
        size = self._tee(self._source, self._showing, self._capacity, _WITHOUT_WAITING)
        if size < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        found = os.read(self._reading, size) if size else b""
        while len(found) < size:
            found += os.read(self._reading, size - len(found))
        return found

    def pass_on(self, target: int, size: int) -> int:
        """Move bytes from the pipe to where they go.

        Returns:
            How many were moved, at least one.

        Raises:
            OSError: as writing there would.
        """
        return os.splice(self._source, target, size)

    def drop(self, size: int) -> None:
        """Take bytes out of the pipe that were looked at."""
        while size:
            size -= len(os.read(self._source, size))

    def close(self) -> None:
        """Close our own pipe."""
        os.close(self._reading)
        os.close(self._showing)
