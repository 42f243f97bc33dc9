"""How far the rotation of one name is, in a file of its own that is replaced whole after every step.

Another file says since when the schedule knows of names that were never rotated.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from broker_worker.core.errors import SetupError
from broker_worker.core.rotation import RotationState
from broker_worker.private_files import make_private_folder, read_private, write_private

MAX_BYTES = 4096
_FIRST_SEEN = ".first_seen.json"
"""No canonical name begins with a dot, so no rotation's file is called so."""
_MAX_SEEN_BYTES = 4 * 1024 * 1024
_DECODE_SEEN = msgspec.json.Decoder(dict[str, int]).decode
_DECODE = msgspec.json.Decoder(RotationState).decode
_ENCODE = msgspec.json.Encoder().encode


class RotationFile:
    """The file of one name. A canonical name is a file name that leads nowhere else.

    Args:
        folder: where such files are; made private.
        name: the secret.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / f"{name}.json"

    def load(self) -> RotationState | None:
        """How far it is; None if it was never begun.

        Raises:
            SetupError: if the file cannot be read, or says something else.
        """
        if not self._path.exists():
            return None
        raw = read_private(self._path, "rotation's file", MAX_BYTES, hint="restore it, or remove it to begin anew")
        try:
            return _DECODE(raw)
        except (msgspec.MsgspecError, ValueError):
            raise SetupError(f"{self._path} cannot be understood", hint="remove it to begin anew") from None

    def store(self, state: RotationState) -> None:
        """Keep how far it is, on disk before this returns.

        Raises:
            SetupError: if that failed; what was there before is still there.
        """
        write_private(self._path, _ENCODE(state))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from rotating this name.

        Raises:
            SetupError: if another one does.
        """
        make_private_folder(self._folder.parent)
        make_private_folder(self._folder)
        lock = FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise SetupError(f"{self._path.stem} is being rotated by another process", hint="wait for it") from None
        try:
            yield
        finally:
            lock.release()


class FirstSeen:
    """Since when the schedule knows of secrets: on disk, so that no restart begins the first period anew.

    Args:
        folder: where rotations' files are; made private.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _FIRST_SEEN

    def keep(self, names: Iterable[str], now: int) -> dict[str, int]:
        """Since when it knows of each of these names (ms since the epoch), and forget all others.

        Raises:
            SetupError: if the file cannot be read or written.
        """
        known = self._load()
        kept = {name: known.get(name, now) for name in names}
        if kept != known:
            make_private_folder(self._folder.parent)
            make_private_folder(self._folder)
            write_private(self._path, _ENCODE(kept))
        return kept

    def _load(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        hint = "restore it, or remove it: the first periods begin anew"
        raw = read_private(self._path, "schedule's file", _MAX_SEEN_BYTES, hint=hint)
        try:
            return _DECODE_SEEN(raw)
        except (msgspec.MsgspecError, ValueError):
            raise SetupError(f"{self._path} cannot be understood", hint=hint) from None
