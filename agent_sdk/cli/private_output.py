"""Where values are written to: a new file that only this user can read, or a pipe."""

import contextlib
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.wire.errors import SecretBrokerError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class OutputError(SecretBrokerError):
    """What is at the place of an output is not to be written over.

    Args:
        message: what is there.
        hint: what to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def check_output(path: Path, *, force: bool) -> None:
    """Make sure that a place can be written to, before anything is asked for.

    Args:
        path: a file that is not there yet, or is private and ours already; a pipe of ours; `-`.
        force: whether any other file is replaced.

    Raises:
        OutputError: if not.
    """
    if str(path) == "-":
        return
    if not os.path.lexists(path):
        if not os.access(path.parent, os.W_OK | os.X_OK):
            what = "is closed to this user" if path.parent.is_dir() else "is not there"
            raise OutputError(f"{path} cannot be written: the folder {path.parent} {what}", "name another place")
        return
    with contextlib.suppress(OSError):
        status = path.stat()
        if stat.S_ISFIFO(status.st_mode):
            if os.name == "posix" and status.st_uid != os.geteuid():
                raise OutputError(f"{path} is another user's pipe", "name a pipe of your own")
            return
        if stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{path} is a folder", "name a file")
        if not stat.S_ISREG(status.st_mode):
            raise OutputError(f"{path} is neither a file nor a pipe", "name a file, a pipe, or - for standard output")
        if path.is_symlink() and _is_the_systems(path):  # /dev/stdout, into a file
            raise OutputError(f"{path} is a link of the system's own", "use - for standard output")
    if not force and not _is_private(path):
        raise OutputError(f"{path} exists, and others could read it or it is another's", "--force replaces it")


def _is_the_systems(path: Path) -> bool:
    """Whether a place is among devices and processes; /dev/shm is memory for everybody's files."""
    _, *parts = path.absolute().parts
    return parts[0] == "proc" or (parts[0] == "dev" and parts[1:2] != ["shm"])


def write_output(path: Path, content: bytes, *, force: bool) -> None:
    """Write a file of mode 0600 as a whole, or into a pipe.

    A file is written beside its place and then renamed, so there is the old one or the new one, never a part; a link in
    its place is replaced and not followed.

    Raises:
        OutputError: if something is there that `check_output` refuses.
        OSError: if it cannot be written.
    """
    check_output(path, force=force)
    if str(path) == "-":
        stream = standard_output().buffer
        stream.write(content)
        stream.flush()
    elif path.is_fifo():
        with path.open("wb", buffering=0) as pipe:
            rest = memoryview(content)
            while rest:
                rest = rest[pipe.write(rest) :]
    else:
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    with _no_signals():
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Let signals that end us wait, so that no part of a value is left beside its place."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_private(path: Path) -> bool:
    status = path.lstat()
    if os.name != "posix":
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _OTHERS
