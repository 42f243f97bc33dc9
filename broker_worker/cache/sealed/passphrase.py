"""A wrapping key from a passphrase: Argon2id (RFC 9106)."""

import os
import struct
from collections.abc import Callable
from typing import Final

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from agent_sdk.wire.aead import KEY_BYTES
from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.wrapping import Wrapped

MIN_PASSPHRASE: Final = 12
"""Shortest passphrase that a new key takes, in bytes."""
_PARAMETERS = struct.Struct(">II16s")
_PASSES, _MEMORY_KIB = range(1, 17), range(8 * 1024, 1024 * 1024 + 1)


class PassphraseWrapping:
    """Implements `Wrapping`.

    Args:
        passphrase: gives the passphrase; raises `UnavailableError` if there is none.
        new_passphrase: gives that of a new key, if it is another one.
    """

    cost: tuple[int, int] = (3, 64 * 1024)
    """Passes and KiB of memory of a new key (RFC 9106, section 4, second choice, on one lane)."""

    def __init__(self, passphrase: Callable[[], bytes], new_passphrase: Callable[[], bytes] | None = None) -> None:
        self._passphrase = passphrase
        self._new_passphrase = new_passphrase or passphrase

    def make(self) -> Wrapped:
        """Make a new wrapping key."""
        passphrase = self._new_passphrase()
        if len(passphrase) < MIN_PASSPHRASE:
            raise UnavailableError(
                f"the sealed cache's passphrase is shorter than {MIN_PASSPHRASE} characters",
                hint="use several random words",
            )
        parameters = _PARAMETERS.pack(*self.cost, os.urandom(16))
        return Wrapped(parameters, _derive(parameters, passphrase))

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again; whether it is the right one shows when it is used."""
        return _derive(parameters, self._passphrase())

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """None: there is no other place than a file."""

    def forget(self, parameters: bytes) -> None:
        """Nothing is kept."""


def _derive(parameters: bytes, passphrase: bytes) -> bytes:
    """The key, within bounds, so that a changed file cannot ask for any amount of work."""
    if len(parameters) != _PARAMETERS.size:
        raise RefusedError("the sealed cache's key file asks for a passphrase in a way that is never written")
    passes, memory_kib, salt = _PARAMETERS.unpack(parameters)
    if passes not in _PASSES or memory_kib not in _MEMORY_KIB:
        raise RefusedError("the sealed cache's key file asks for more work than is ever written")
    try:
        return argon2id.kdf(KEY_BYTES, passphrase, salt, opslimit=passes, memlimit=memory_kib * 1024)
    except (CryptoError, RuntimeError, MemoryError):
        pass  # said below, outside this block: the exception's frames hold the passphrase
    raise UnavailableError(
        f"{memory_kib // 1024} MiB of memory are needed to derive the sealed cache's key",
        hint="give the process more memory",
    )
