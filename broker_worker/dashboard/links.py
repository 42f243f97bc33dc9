"""One-time links: how a browser proves that the person at it may use the command line of this installation.

Only the SHA-256 of a link's token is stored, in a file of the owner's own; whoever reads it can log in with nothing.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from filelock import FileLock, Timeout
from msgspec import Meta, Struct

from broker_worker.core.errors import SetupError
from broker_worker.private_files import make_private_folder, read_private, write_private

LIFETIME_MS: Final = 10 * 60 * 1000
"""How long a link can be used, ms."""
MAX_OPEN: Final = 32
"""How many unused links are kept; the oldest are forgotten first."""
_LOCK_SECONDS = 5.0
_MAX_FILE = 64 * 1024


class _Link(Struct, frozen=True, forbid_unknown_fields=True):
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    expires_at: Annotated[int, Meta(ge=0)]


_DECODER = msgspec.json.Decoder(list[_Link])


class Links:
    """The links that were made and not used, shared by the dashboard and the command line through a file.

    Args:
        folder: where the file lives; made with mode 0700 if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "links.json"

    def make(self, now: int) -> str:
        """Make a token that opens the dashboard once.

        Args:
            now: the time, ms since the epoch.

        Returns:
            43 characters of base64url, for `/login?token=…`.

        Raises:
            SetupError: if it cannot be stored.
        """
        token = secrets.token_urlsafe(32)
        with self._locked():
            links = [*self._open(now), _Link(_digest(token), now + LIFETIME_MS)]
            self._write(links[-MAX_OPEN:])
        return token

    def is_open(self, token: str, now: int) -> bool:
        """Whether a token could be used now."""
        return any(secrets.compare_digest(link.digest, _digest(token)) for link in self._open(now))

    def use(self, token: str, now: int) -> bool:
        """Use a token up.

        Args:
            token: what the browser sent.
            now: the time, ms since the epoch.

        Returns:
            Whether it was open until now: False for one that was used, is too old, or was never made.

        Raises:
            SetupError: if it cannot be marked as used; it must then open nothing.
        """
        with self._locked():
            links = self._open(now)
            rest = [link for link in links if not secrets.compare_digest(link.digest, _digest(token))]
            if len(rest) == len(links):
                return False
            self._write(rest)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_private_folder(self._folder)
        try:
            with FileLock(self._folder / "links.lock", timeout=_LOCK_SECONDS, mode=0o600):
                yield
        except Timeout:
            raise SetupError(
                f"{self._file} is locked by another process", hint="try again; is a `secret-broker dashboard` hanging?"
            ) from None

    def _open(self, now: int) -> list[_Link]:
        if not self._file.exists():
            return []
        raw = read_private(self._file, "the list of login links", _MAX_FILE, hint="make a new link")
        try:
            links = _DECODER.decode(raw)
        except msgspec.MsgspecError:
            raise SetupError(f"{self._file} is damaged", hint="remove it and make a new link") from None
        return [link for link in links if now < link.expires_at <= now + LIFETIME_MS]

    def _write(self, links: list[_Link]) -> None:
        write_private(self._file, msgspec.json.encode(links))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
