"""Files and folders that only the broker's own user may enter: keys, tokens, the vault, the queue's users."""

import os
import stat
from pathlib import Path

from broker_worker.core.errors import SetupError

_POSIX = os.name == "posix"
_BINARY = getattr(os, "O_BINARY", 0)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


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
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except FileNotFoundError:
        raise SetupError(f"{what} {path} does not exist", hint=hint) from None
    except OSError as error:
        raise SetupError(f"{what} {path} cannot be read: {error.strerror}", hint="check its owner and mode") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SetupError(f"{what} {path} is not a plain file", hint="name a plain file")
        check_private(path, status, what)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise SetupError(f"{what} {path} has more than {max_bytes} bytes", hint="is it the right file?")
    return content


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
            _write_exclusively(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def create_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600.

    Raises:
        SetupError: if there is something at `path` already, or it cannot be written; no part of it is then left.
    """
    try:
        _write_exclusively(path, content)
        sync_folder(path.parent)
    except FileExistsError:
        raise SetupError(f"{path} exists already", hint="nothing was changed; move it away first") from None
    except OSError as error:
        raise _cannot_write(path, error) from error


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, or check that an existing one is such.

    Missing parents are made as private, in whatever order processes that start together get here.

    Raises:
        SetupError: if it cannot be made, is no folder, or is open to others.
    """
    try:
        _make_folders(path)
        status = path.stat()
    except OSError as error:
        raise SetupError(f"the folder {path} cannot be made: {error.strerror}", hint="check its parents") from error
    check_private(path, status, "the folder")


def _make_folders(path: Path) -> None:
    # not mkdir(parents=True): that gives the parents the mode of the umask
    if not path.parent.exists():
        _make_folders(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def check_private(path: Path, status: os.stat_result, what: str) -> None:
    """Check that a file or folder belongs to this user or to root, and is closed to everybody else.

    Args:
        path: the file or folder, for the message.
        status: what `stat` said of it.
        what: its name in the message.

    Raises:
        SetupError: if not; the hint says how to mend it. Windows has no such modes, so nothing is checked there.
    """
    if not _POSIX:
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise SetupError(f"{what} {path} belongs to another user", hint=f"chown it to uid {os.geteuid()}")
    if status.st_mode & _OTHERS:
        mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise SetupError(
            f"{what} {path} has mode {stat.S_IMODE(status.st_mode):04o}; group and others may have no access",
            hint=f"chmod {mode} '{path}'; if others could read it, replace what is in it",
        )


def sync_folder(folder: Path) -> None:
    """Make a change of names in `folder` durable, where the system has a way to."""
    if not _POSIX:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_exclusively(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:  # a full disk, Ctrl-C: half a key would be in the way of all that read keys
        path.unlink(missing_ok=True)
        raise


def _cannot_write(path: Path, error: OSError) -> SetupError:
    return SetupError(
        f"{path} cannot be written: {error.strerror}", hint="check the folder's owner, mode and free space"
    )
