"""A provider of one's own: files that Docker, Kubernetes or systemd mounted into one folder, `mounted://NAME`."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker_worker.providers.plugin import MAX_VALUE, FailureKind, Fetched, Health, ProviderError, ProviderKind

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


class MountedProvider:
    """Serves the files of a folder; each method keeps what `plugin.Provider` says of it."""

    name = "mounted"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Read files, in a thread: a folder can be slow."""
        if not self._folder.is_dir():
            raise ProviderError(FailureKind.UNREACHABLE, "there is no such folder", hint="is it mounted?")
        return await asyncio.to_thread(lambda: {ref: self._read(ref) for ref in refs})

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Refuse."""
        raise ProviderError(FailureKind.READ_ONLY, "mounted files are read-only", hint="change what is mounted")

    async def health(self) -> Health:
        """Whether the folder is there."""
        if self._folder.is_dir():
            return Health(True, "the folder is there")
        return Health(False, "there is no such folder", "is it mounted? `folder` in broker.yaml says which")

    async def close(self) -> None:
        """Read nothing more."""
        self._folder = Path("/dev/null")

    def _read(self, ref: str) -> Fetched | ProviderError:
        scheme, _, name = ref.partition("://")
        if scheme != "mounted" or NAME.fullmatch(name) is None:
            return ProviderError(FailureKind.BAD_REFERENCE, "expected mounted://NAME", hint="correct secrets.yaml")
        try:
            with (self._folder / name).open("rb") as file:
                value = file.read(MAX_VALUE + 1)
        except OSError as error:
            kind = FailureKind.NOT_FOUND if isinstance(error, FileNotFoundError) else FailureKind.UNREACHABLE
            return ProviderError(kind, f"the file cannot be read: {error.strerror}", hint="is it mounted?")
        kind = FailureKind.TOO_LARGE if value else FailureKind.NOT_FOUND
        return Fetched(value) if 0 < len(value) <= MAX_VALUE else ProviderError(kind, "the file is empty or too large")


KIND = ProviderKind(
    form="mounted://NAME: letters, digits, '_', '.' and '-', with neither '.' nor '-' first",
    check=lambda path: NAME.fullmatch(path) is not None,
    options=("folder",),
    make=lambda options, around: MountedProvider(options.path("folder", Path("/run/secrets"))),
)
