"""The bearer token of the HTTP server, in a file that only this user can read."""

import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from mcp.server.auth.provider import AccessToken

from agent_sdk.errors import InvalidRequest

_LEAST: Final = 32
_MOST: Final = 4096


def load_or_create(path: Path) -> str:
    """The token that stands in a file; a new one if there is no such file.

    Args:
        path: the file. It is made with mode 0600, in a folder that is there.

    Raises:
        InvalidRequest: if others can read it, or what stands in it is no token.
        OSError: if it can be neither read nor made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _load(path)
    token = secrets.token_urlsafe(_LEAST)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def _load(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{path} is not a regular file")
        if os.name != "nt" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            raise InvalidRequest(f"{path} can be read by others: delete it, so that a new token is made")
        raw = file.read(_MOST).strip()
    if len(raw) < _LEAST or not raw.isascii() or not raw.decode("ascii").isprintable() or b" " in raw:
        raise InvalidRequest(f"{path} holds no token of at least {_LEAST} characters: delete it, so that one is made")
    return raw.decode("ascii")


class OneToken:
    """Knows one token (`mcp.server.auth.provider.TokenVerifier`).

    Args:
        token: the one.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Whose token it is; None if it is not ours."""
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return None
        return AccessToken(token=token, client_id="owner", scopes=[])
