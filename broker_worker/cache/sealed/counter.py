"""Counters that tell an older copy of the sealed cache from the newest: kept where the file is not.

The file's generation is written first and is on disk before its counter moves on, so that after a crash in between the
counter is one behind. An older file's generation is less than its counter.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import Protocol

from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.format import Head
from broker_worker.core.errors import SetupError
from broker_worker.private_files import read_private, write_private

_LINE = re.compile(rb"SECRET-BROKER-CACHE-COUNT-1:([0-9]{1,19}):([0-9a-f]{32})\n?")
_MAX_FILE = 128


class Counter(Protocol):
    """A number that only grows."""

    @property
    def interval_seconds(self) -> float:
        """How long changes may wait for the next step: some counters wear out, or are slow."""
        ...

    def value(self) -> int:
        """The number now.

        Raises:
            RefusedError: if it is gone, or is not what was written.
            UnavailableError: if it cannot be asked.
        """
        ...

    def advance(self) -> None:
        """Add one, durably.

        Raises:
            RefusedError: if it is gone, or is not what was written.
            UnavailableError: if that was not possible.
        """
        ...


def check_generation(head: Head, count: int) -> None:
    """Check that a file is the newest one.

    Raises:
        RefusedError: if it is older than its counter, or newer than it can be.
    """
    if head.generation < count:
        raise RefusedError(
            f"the sealed cache is an older copy: generation {head.generation}, where {count} was written last"
        )
    if head.generation > count + 1:
        raise RefusedError(
            f"the sealed cache's counter was put back: it says {count}, and generation {head.generation} was written"
        )


def count_line(count: int, key: bytes) -> bytes:
    """A count as it is stored, authenticated with a key that is not stored beside it."""
    return b"SECRET-BROKER-CACHE-COUNT-1:%d:%s\n" % (count, _mac(count, key))


def read_count(line: bytes, key: bytes, where: str) -> int:
    """The count of a line that `count_line` made.

    Raises:
        RefusedError: for anything else.
    """
    found = _LINE.fullmatch(line)
    if found is None or found[2] != _mac(int(found[1]), key) or int(found[1]) >= sys.maxsize:
        raise RefusedError(f"{where} does not hold the count that was written there")
    return int(found[1])


def _mac(count: int, key: bytes) -> bytes:
    return hashlib.blake2b(b"%d" % count, key=key, person=b"sb cache count", digest_size=16).hexdigest().encode()


class FileCounter:
    """A counter in a file of its own, outside the folder of the file that it counts for.

    Args:
        path: the file.
        key: authenticates it, 32 bytes.
    """

    interval_seconds = 0.0

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key

    def start(self, count: int = 0) -> None:
        """Make the file, or begin anew.

        Raises:
            SetupError: if it cannot be written.
        """
        write_private(self._path, count_line(count, self._key))

    def value(self) -> int:
        """The number now."""
        if not self._path.exists():
            raise RefusedError(f"the sealed cache's counter {self._path} is gone")
        try:
            line = read_private(self._path, "the sealed cache's counter", _MAX_FILE, hint="it is made anew")
        except SetupError as error:
            raise RefusedError(str(error), hint=error.hint) from None
        return read_count(line, self._key, str(self._path))

    def advance(self) -> None:
        """Add one, durably."""
        try:
            write_private(self._path, count_line(self.value() + 1, self._key))
        except RefusedError:
            raise
        except SetupError as error:
            raise UnavailableError(str(error), hint=error.hint) from error
