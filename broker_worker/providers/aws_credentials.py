"""Telling one set of AWS credentials from the next, without asking AWS or loading boto3.

botocore looks for credentials in variables, in files, and at the host's or container's own service ("Credentials",
boto3's guide). What variables and files hold is compared; what a role is given at the moment is not asked for.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
_FILES: Final = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
}
_LOGINS: Final = ("~/.aws/sso/cache", "~/.aws/login/cache")
_PERSON: Final = b"sb aws sign-in"
_MOST: Final = 1024 * 1024


def fingerprint_of(profile: str | None, salt: bytes, environ: Mapping[str, str] | None = None) -> str:
    """Tell the credentials that boto3 would find from others; see `ports.CredentialedProvider`.

    Args:
        profile: the profile of the section; None for what AWS's own configuration says.
        salt: 16 random bytes.
        environ: the environment; this process's if None.
    """
    digest = hashlib.blake2b(digest_size=8, salt=salt, person=_PERSON)
    for part in ((profile or "").encode(), *_parts(os.environ if environ is None else environ)):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _parts(environ: Mapping[str, str]) -> Iterator[bytes]:
    for name in _VARIABLES:
        yield environ.get(name, "").encode("utf-8", "surrogateescape")
    for name, usual in _FILES.items():
        yield _content(environ.get(name) or usual)
    try:
        logins = [path for folder in _LOGINS for path in sorted(Path(folder).expanduser().glob("*.json"))]
    except (OSError, RuntimeError):
        logins = []
    for path in logins:
        yield _content(str(path))


def _content(path: str) -> bytes:
    if not path:
        return b""
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(_MOST)
    except (OSError, RuntimeError):  # the latter where there is no home folder
        return b""
