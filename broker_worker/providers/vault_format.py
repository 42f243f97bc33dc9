"""The local vault's file format: a header that says how to get the key, and one sealed box with every entry.

    magic 8 | version 1 | key kind 1 | passes 4 | memory KiB 4 | salt 16 | key check 16 | nonce 24 | sealed entries

Integers are big-endian. The box is XChaCha20-Poly1305-IETF (draft-irtf-cfrg-xchacha) with the whole header as
associated data, so nothing in the header can be exchanged, the version included. The key is Argon2id (RFC 9106) of
a passphrase, or keyed BLAKE2b (RFC 7693) of a key file. The key check, a keyed BLAKE2b too, tells a wrong key from a
damaged file and commits the box to one key.
"""

import hashlib
import os
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, NoReturn

import msgspec
import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError

VERSION = 1
MAX_VAULT = 32 * 1024 * 1024
"""Largest vault file, in bytes."""
KEY_BYTES = 32
_MAGIC = b"SBVAULT\x00"
_HEADER = struct.Struct(">8sBBII16s16s24s")
_TAG_BYTES = 16
_PASSES = range(1, 17)
_MEMORY_KIB = range(8 * 1024, 1024 * 1024 + 1)


class KeyKind(IntEnum):
    """Where a vault's key comes from. Values are written to files."""

    KEY_FILE = 1
    PASSPHRASE = 2


@dataclass(frozen=True, slots=True)
class KeyParameters:
    """How a vault's key is made; part of its header.

    Args:
        kind: from a passphrase or a key file.
        passes: Argon2id passes; 0 for a key file.
        memory_kib: Argon2id memory in KiB; 0 for a key file.
        salt: 16 random bytes.
    """

    kind: KeyKind
    passes: int
    memory_kib: int
    salt: bytes = field(default_factory=lambda: os.urandom(16))

    @classmethod
    def of_key_file(cls) -> "KeyParameters":
        """Parameters of a new vault that a key file opens."""
        return cls(KeyKind.KEY_FILE, 0, 0)

    @classmethod
    def of_passphrase(cls, passes: int = 3, memory_kib: int = 64 * 1024) -> "KeyParameters":
        """Parameters of a new vault that a passphrase opens (RFC 9106, section 4, second choice, on one lane)."""
        return cls(KeyKind.PASSPHRASE, passes, memory_kib)

    def derive(self, secret: bytes) -> bytes:
        """Make the vault's key from a passphrase or a key file's content; the former takes a while.

        Args:
            secret: the passphrase, or the 32 bytes of the key file.

        Returns:
            32 bytes.

        Raises:
            ProviderError: if there is not enough memory for it.
        """
        if self.kind is KeyKind.KEY_FILE:
            return hashlib.blake2b(key=secret, salt=self.salt, person=b"sb vault key", digest_size=KEY_BYTES).digest()
        try:
            return argon2id.kdf(KEY_BYTES, secret, self.salt, opslimit=self.passes, memlimit=self.memory_kib * 1024)
        except (CryptoError, RuntimeError, MemoryError):
            pass  # refused below, outside this block: the exception's frames hold the passphrase
        return _refuse(f"key takes {self.memory_kib // 1024} MiB of memory to derive", "give the process more memory")


class VaultEntry(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """`[value, version, updated_at]` of one name; time in ms since the epoch."""

    value: Annotated[bytes, Meta(min_length=1, max_length=MAX_VALUE)]
    version: Annotated[int, Meta(ge=1)]
    updated_at: Annotated[int, Meta(ge=0)]

    def __repr__(self) -> str:
        return f"VaultEntry(version={self.version}, updated_at={self.updated_at})"


class VaultContent(Struct, frozen=True, forbid_unknown_fields=True):
    """All entries, and the last versions of names that were removed, so that no version is ever used twice."""

    entries: dict[str, VaultEntry] = {}
    retired: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"VaultContent({len(self.entries)} entries)"


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(VaultContent)


def _refuse(what: str, hint: str, kind: FailureKind = FailureKind.UNKNOWN) -> NoReturn:
    raise ProviderError(kind, f"the vault {what}", hint=hint)


_DAMAGED = "restore it from a backup; if nobody damaged it by accident, treat it as tampered with"


def read_parameters(raw: bytes) -> KeyParameters:
    """Read how a vault's key is made, within bounds, so that a header cannot ask for any amount of work.

    Raises:
        ProviderError: if this is no vault of a version that this program reads, or its header is out of bounds.
    """
    if not raw.startswith(_MAGIC):
        _refuse("file does not begin as a vault does", "is it the right file? `secret-broker vault create` makes one")
    if len(raw) < _HEADER.size + _TAG_BYTES:
        _refuse("file is cut short", _DAMAGED)
    _, version, kind, passes, memory_kib, salt, _, _ = _HEADER.unpack_from(raw)
    if version > VERSION:
        _refuse(f"has format version {version}; this program reads version {VERSION}", "upgrade secret-broker")
    if version < VERSION:
        _refuse(f"has format version {version}, which never was; this program reads version {VERSION}", _DAMAGED)
    if kind == KeyKind.KEY_FILE and passes == memory_kib == 0:
        return KeyParameters(KeyKind.KEY_FILE, 0, 0, salt)
    if kind == KeyKind.PASSPHRASE and passes in _PASSES and memory_kib in _MEMORY_KIB:
        return KeyParameters(KeyKind.PASSPHRASE, passes, memory_kib, salt)
    return _refuse("header asks for a key in a way that this program does not know", _DAMAGED)


def seal_content(content: VaultContent, parameters: KeyParameters, key: bytes) -> bytes:
    """Seal all entries under a fresh nonce.

    Returns:
        The whole file.

    Raises:
        ProviderError: kind `TOO_LARGE` if the file would exceed 32 MiB.
    """
    plaintext = _ENCODER.encode(content)
    if _HEADER.size + len(plaintext) + _TAG_BYTES > MAX_VAULT:
        _refuse(f"would exceed {MAX_VAULT} bytes", "remove entries or use smaller values", FailureKind.TOO_LARGE)
    nonce = os.urandom(24)
    header = _HEADER.pack(
        _MAGIC,
        VERSION,
        parameters.kind,
        parameters.passes,
        parameters.memory_kib,
        parameters.salt,
        _key_check(key, parameters),
        nonce,
    )
    return header + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, header, nonce, key)


def open_content(raw: bytes, parameters: KeyParameters, key: bytes) -> VaultContent:
    """Open a file whose parameters were read from it.

    Raises:
        ProviderError: `UNAUTHENTICATED` for another vault's key, `UNKNOWN` for a file that is not as it was sealed.
    """
    *_, check, nonce = _HEADER.unpack_from(raw)
    if not sodium.sodium_memcmp(check, _key_check(key, parameters)):
        secret = "passphrase" if parameters.kind is KeyKind.PASSPHRASE else "key file"
        _refuse(
            f"does not open with this {secret}", f"use the {secret} that it was made with", FailureKind.UNAUTHENTICATED
        )
    header, sealed = raw[: _HEADER.size], raw[_HEADER.size :]
    plaintext = None
    try:
        plaintext = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, header, nonce, key)
        return _DECODER.decode(plaintext)
    except (CryptoError, ValueError, msgspec.MsgspecError):
        pass  # refused below, outside this block: the exception's context may hold parts of the content
    what = (
        "file was changed or cut short since it was written" if plaintext is None else "holds entries of another form"
    )
    return _refuse(what, _DAMAGED)


def _key_check(key: bytes, parameters: KeyParameters) -> bytes:
    return hashlib.blake2b(key=key, salt=parameters.salt, person=b"sb vault check", digest_size=16).digest()
