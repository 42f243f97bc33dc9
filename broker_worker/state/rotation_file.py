"""How far the rotation of one name is, in a file of its own that is replaced whole after every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from broker_worker.core.errors import SetupError
from broker_worker.core.rotation import RotationState
from broker_worker.private_files import make_private_folder, read_private, write_private

MAX_BYTES = 4096
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
