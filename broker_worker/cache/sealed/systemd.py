"""A wrapping key from a credential that systemd hands to the service (systemd.exec(5), "Credentials").

systemd decrypts the credential, with the TPM or the host's key, into a folder in memory that only the service reads.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_sdk.wire.aead import KEY_BYTES
from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.wrapping import Wrapped

FOLDER_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
MIN_CREDENTIAL: Final = 32
_MAX_CREDENTIAL = 4096
_SALT_BYTES = 16


class SystemdWrapping:
    """Implements `Wrapping`.

    Args:
        credential: the credential's name.
        environ: the environment, where systemd names the folder.
    """

    def __init__(self, credential: str, environ: Mapping[str, str]) -> None:
        self._credential = credential
        self._folder = environ.get(FOLDER_VARIABLE, "")

    def make(self) -> Wrapped:
        """Make a new wrapping key."""
        salt = os.urandom(_SALT_BYTES)
        return Wrapped(salt, self._derive(salt))

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again; whether it is the right one shows when it is used."""
        if len(parameters) != _SALT_BYTES:
            raise RefusedError("the sealed cache's key file asks for a credential in a way that is never written")
        return self._derive(parameters)

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """None: credentials are only read, so there is no other place than a file."""

    def forget(self, parameters: bytes) -> None:
        """Nothing is kept."""

    def _derive(self, salt: bytes) -> bytes:
        hint = f"write LoadCredentialEncrypted={self._credential} in the service's unit (docs/sealed-cache.md)"
        if not self._folder:
            raise UnavailableError("systemd gave this process no credentials", hint=hint)
        try:
            with (Path(self._folder) / self._credential).open("rb") as file:
                content = file.read(_MAX_CREDENTIAL + 1)
        except OSError as error:
            raise UnavailableError(
                f"the credential `{self._credential}` cannot be read: {error.strerror}", hint=hint
            ) from error
        if not MIN_CREDENTIAL <= len(content) <= _MAX_CREDENTIAL:
            raise UnavailableError(
                f"the credential `{self._credential}` has {len(content)} bytes or more; "
                f"{MIN_CREDENTIAL} to {_MAX_CREDENTIAL} random ones are expected",
                hint="make it with `head -c 32 /dev/urandom | systemd-creds encrypt …`",
            )
        strong = hashlib.blake2b(content, person=b"sb cache systemd").digest()
        return hashlib.blake2b(key=strong, salt=salt, person=b"sb cache wrap", digest_size=KEY_BYTES).digest()
