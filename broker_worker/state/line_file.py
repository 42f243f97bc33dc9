"""A private file of lines that several processes append to and read; a line is on disk before `append` returns.

A write that a crash cut short leaves a text without a line feed. Nobody was told that it was written, so it is no line,
and the next append takes it away, unless it is whole after all. Whatever else happens to the file than an append is
told to the reader, which then reads all of it again.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from filelock import FileLock, Timeout

from broker_worker.core.errors import SetupError
from broker_worker.private_files import check_private, make_private_folder, sync_folder, write_private

MAX_BYTES: Final = 64 * 1024 * 1024
LOCK_SECONDS: Final = 5.0
_SAFE = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


class News(NamedTuple):
    """What came to a file since it was last read.

    Args:
        lines: the new lines, without line feeds; all of them if there is a fault.
        fault: what happened to the file that is no append; empty if nothing did.
    """

    lines: Sequence[bytes] = ()
    fault: str = ""


_NO_NEWS = News()


class LineFile:
    """Appends to a file and reads on from where it stopped. Not for several threads at once.

    Args:
        path: the file; it need not exist. Its folder is made private when the first line is appended.
        is_line: whether a text without its line feed is a whole line; a part of a line never is.
    """

    def __init__(self, path: Path, is_line: Callable[[bytes], bool]) -> None:
        self._path = path
        self._is_line = is_line
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS, mode=0o600)
        self._state: tuple[int, ...] | None = None
        self._offset = 0
        self._digest = _digest(b"")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing.

        Raises:
            SetupError: if the folder cannot be used, or another process holds the file for too long.
        """
        make_private_folder(self._path.parent)
        try:
            self._lock.acquire()
        except Timeout:
            raise SetupError(
                f"{self._path} was held by another process for {LOCK_SECONDS:.0f} s", hint="see which one hangs"
            ) from None
        except OSError as error:
            raise self._failed("locked", error) from error
        try:
            yield
        finally:
            self._lock.release()

    def poll(self) -> News:
        """Read what is new. It costs one look at the file's status when nothing is.

        Raises:
            SetupError: if the file cannot be read, is too large, or is open to others.
        """
        try:
            if self._state is not None and _state_of(os.stat(self._path)) == self._state:  # noqa: PTH116  # half the cost of Path.stat
                return _NO_NEWS
            state, content = self._read()
        except FileNotFoundError:
            fault = "was removed" if self._offset else ""
            self._state, self._offset, self._digest = None, 0, _digest(b"")
            return News(fault=fault)
        except OSError as error:
            raise self._failed("read", error) from error
        fault = ""
        if len(content) < self._offset:
            fault = "is shorter than it was"
        elif _digest(content[: self._offset]) != self._digest:
            fault = "was changed otherwise than by appending"
        begin = 0 if fault else self._offset
        end = content.rfind(b"\n", begin) + 1 or begin
        if self._is_line(content[end:]):
            end = len(content)
        self._state, self._offset, self._digest = state, end, _digest(content[:end])
        return News([line for line in content[begin:end].split(b"\n") if line], fault)

    def append(self, *lines: bytes) -> None:
        """Write lines and have the disk take them. Only while `locked`, and after a `poll` in there.

        Raises:
            SetupError: if it cannot be written, or nobody would read the file any more as it would be too large; as far
                as the disk allows, no part of it then stays in the file.
        """
        if self._offset + sum(len(line) + 1 for line in lines) > MAX_BYTES:
            raise self._too_large("would have")
        try:
            is_new = not self._path.exists()
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _SAFE
            descriptor = os.open(self._path, flags, 0o600)
            try:
                status = os.fstat(descriptor)
                check_private(self._path, status, "the file")
                if status.st_size < self._offset:
                    raise OSError(errno.ESTALE, "was removed or cut just now")
                os.ftruncate(descriptor, self._offset)  # what a crash left behind the last line
                self._write(descriptor, b"".join(line + b"\n" for line in lines))
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise self._failed("written", error) from error

    def replace(self, lines: Sequence[bytes]) -> None:
        """Put other lines in the place of all. Only while `locked`; other readers are told that the file changed.

        Raises:
            SetupError: if it cannot be written; the old lines are then still there.
        """
        content = b"".join(line + b"\n" for line in lines)
        write_private(self._path, content)
        self._state, self._offset, self._digest = None, len(content), _digest(content)

    def _read(self) -> tuple[tuple[int, ...], bytes]:
        descriptor = os.open(self._path, os.O_RDONLY | _SAFE)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SetupError(f"{self._path} is not a plain file", hint="move it away")
            check_private(self._path, status, "the file")
            if status.st_size > MAX_BYTES:
                raise self._too_large("has")
            return _state_of(status), file.read(status.st_size)

    def _write(self, descriptor: int, content: bytes) -> None:
        if self._offset:
            os.lseek(descriptor, self._offset - 1, os.SEEK_SET)
            content = content if os.read(descriptor, 1) == b"\n" else b"\n" + content
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # a part that stays is no line, or is taken away by the next append
                os.ftruncate(descriptor, self._offset)
            raise

    def _too_large(self, verb: str) -> SetupError:
        return SetupError(f"{self._path} {verb} more than {MAX_BYTES} bytes", hint="move what is over elsewhere")

    def _failed(self, what: str, error: OSError) -> SetupError:
        return SetupError(
            f"{self._path} cannot be {what}: {error.strerror}", hint="check its folder's owner, mode and free space"
        )


def _state_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
