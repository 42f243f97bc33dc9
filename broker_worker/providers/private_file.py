"""Files that only the broker's own user may read: keys, tokens and the vault itself."""

import os
import stat
from pathlib import Path

from broker_worker.core.errors import SetupError

_POSIX = os.name == "posix"


def read_private(path: Path, what: str, max_bytes: int, *, hint: str) -> bytes:
    """Read a file that nobody else may read.

    The modes are those of the file that was opened, so that it cannot be exchanged between the check and the
    read. On Windows, which has no such modes, only size and kind are checked.

    Args:
        path: the file; a symbolic link is followed, as mounted secrets are links.
        what: its name in messages.
        max_bytes: refuse anything longer.
        hint: what to do if there is no such file.

    Raises:
        SetupError: if it is missing, no plain file, too long, someone else's, or open to group or others.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            _check(os.fstat(file.fileno()), path, what)
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise SetupError(f"{what} {path} does not exist", hint=hint) from None
    except OSError as error:
        raise SetupError(f"{what} {path} cannot be read: {error.strerror}", hint="check its owner and mode") from error
    if len(content) > max_bytes:
        raise SetupError(f"{what} {path} has more than {max_bytes} bytes", hint="is it the right file?")
    return content


def _check(status: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{what} {path} is not a plain file", hint="name a plain file")
    if not _POSIX:
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise SetupError(f"{what} {path} belongs to another user", hint=f"chown it to uid {os.geteuid()}")
    if status.st_mode & 0o077:
        raise SetupError(
            f"{what} {path} has mode {stat.S_IMODE(status.st_mode):04o}; group and others may have no access",
            hint=f"chmod 600 '{path}'; if others could read it, replace what is in it",
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically with mode 0600: after a crash there is the old content or the new, never a part.

    Args:
        path: the file; it is replaced if it exists.
        content: all of it.

    Raises:
        SetupError: if it cannot be written; the old content is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise SetupError(
            f"{path} cannot be written: {error.strerror}", hint="check the folder's owner, mode and free space"
        ) from error


def _sync_folder(folder: Path) -> None:
    if not _POSIX:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
