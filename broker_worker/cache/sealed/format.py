"""What stands in the sealed cache's file: records, and one head that stands for all of them.

Every record is sealed with XChaCha20-Poly1305-IETF under a key of its own: keyed BLAKE2b (RFC 7693) with the master
key, a random salt and the record's description. The description (reference, version, when it was fetched, its expiry,
what the configuration was) is the associated data too, so nothing of it can be exchanged. Values are padded to a
multiple of 256 bytes.

The head says how many records there are and holds the sum, modulo 2^256, of a keyed hash of each (an additive
multiset hash: Clarke, Devadas, van Dijk, Gassend, Suh, "Incremental Multiset Hash Functions", 2003). So a record
cannot be taken out, added, or exchanged for an older one, and a change costs one hash a record. The head itself is
sealed: whoever does not know the sums cannot look for others that add up.
"""

import hashlib
import os
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from agent_sdk.wire import aead
from agent_sdk.wire.codec import Codec, pad, unpad
from agent_sdk.wire.errors import WireError
from broker_worker.cache.sealed.errors import RefusedError

FORMAT: Final = 1
SUM_BYTES: Final = 32
_SALT_BYTES = 16
_MODULUS = 2 ** (8 * SUM_BYTES)
_MAX_HEAD = 256
_ENCODE = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """A value as it is kept.

    Args:
        ref: its reference.
        version: the vault's version, if it has any.
        fetched_at: when the vault gave it, ms since the epoch.
        until: its expiry, ms since the epoch.
        binding: what the providers' sections said then (`core.digest.providers_digest`).
        value: the value.
    """

    ref: str
    version: str | None
    fetched_at: int
    until: int
    binding: bytes
    value: bytes = field(repr=False)


class Row(NamedTuple):
    """A sealed record; all but the last two is the description. Nothing of it is trusted before it was opened."""

    ref: str
    version: str | None
    fetched_at: int
    until: int
    binding: bytes
    salt: bytes
    box: bytes


_TYPES = ((str,), (str, type(None)), (int,), (int,), (bytes,), (bytes,), (bytes,))


class Head(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is true of all records together.

    Args:
        generation: compared with a counter that is kept where the file is not.
        count: how many records there are.
        total: the sum of their marks.
        seen_at: the latest time that any writer's clock showed, ms since the epoch.
    """

    generation: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=0)]
    total: Annotated[bytes, Meta(min_length=SUM_BYTES, max_length=SUM_BYTES)]
    seen_at: Annotated[int, Meta(ge=0)]


_HEAD = Codec(Head, "head", _MAX_HEAD)


class Sealer:
    """Seals and opens what stands in one file.

    Args:
        master: the master key, 32 bytes.
    """

    __slots__ = ("_head_key", "_mark_key", "_record_key", "key_id")

    def __init__(self, master: bytes) -> None:
        self._record_key = _derive(master, b"sb cache records")
        self._mark_key = _derive(master, b"sb cache marks")
        self._head_key = _derive(master, b"sb cache head")
        self.key_id = _derive(master, b"sb cache key id")[:8]
        """Names the key; it says nothing about it."""

    def seal(self, record: Record) -> Row:
        """Seal a record under a key that is used for nothing else."""
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(aead.NONCE_BYTES)
        about = (record.ref, record.version, record.fetched_at, record.until, record.binding)
        described = _describe(*about)
        sealed = aead.encrypt(pad(record.value), described, nonce, self._key_of(described, salt))
        return Row(*about, salt, nonce + sealed)

    def open(self, row: Row) -> Record:
        """Open a row.

        Raises:
            RefusedError: if this key did not make it, or not with this description.
        """
        described = _describe(*row[:5])
        nonce, sealed = row.box[: aead.NONCE_BYTES], row.box[aead.NONCE_BYTES :]
        plaintext = None
        if len(row.salt) == _SALT_BYTES and len(nonce) == aead.NONCE_BYTES:
            plaintext = aead.decrypt(sealed, described, nonce, self._key_of(described, row.salt))
        if plaintext is not None:
            try:
                return Record(*row[:5], value=unpad(plaintext))
            except WireError:
                pass  # refused below, outside this block: the exception's frames hold the value
        raise RefusedError("a record of the sealed cache was changed since it was written")

    def mark(self, row: Row) -> int:
        """What a row adds to the head's sum."""
        data = _describe(*row[:5]) + row.salt + row.box
        return int.from_bytes(
            hashlib.blake2b(data, key=self._mark_key, person=b"sb cache mark", digest_size=SUM_BYTES).digest()
        )

    def seal_head(self, head: Head) -> bytes:
        """Seal the head."""
        nonce = os.urandom(aead.NONCE_BYTES)
        return nonce + aead.encrypt(_HEAD.encode(head), self._about_head(), nonce, self._head_key)

    def open_head(self, box: bytes) -> Head:
        """Open the head.

        Raises:
            RefusedError: if this key did not make it.
        """
        nonce, sealed = box[: aead.NONCE_BYTES], box[aead.NONCE_BYTES :]
        if len(nonce) == aead.NONCE_BYTES and len(sealed) <= _MAX_HEAD + aead.TAG_BYTES:
            plaintext = aead.decrypt(sealed, self._about_head(), nonce, self._head_key)
            if plaintext is not None:
                return _HEAD.decode(plaintext)
        raise RefusedError("the sealed cache was made with another key, or its head was changed since it was written")

    def _about_head(self) -> bytes:
        return _ENCODE(("secret-broker cache head", FORMAT, self.key_id))

    def _key_of(self, described: bytes, salt: bytes) -> bytes:
        return hashlib.blake2b(
            described, key=self._record_key, salt=salt, person=b"sb cache record", digest_size=aead.KEY_BYTES
        ).digest()


def empty_head(generation: int, now: int) -> Head:
    """The head of a file without records."""
    return Head(generation, 0, bytes(SUM_BYTES), now)


def moved(total: bytes, added: int, removed: int) -> bytes:
    """A sum after marks were added and removed."""
    return ((int.from_bytes(total) + added - removed) % _MODULUS).to_bytes(SUM_BYTES)


def checked_row(found: tuple[object, ...]) -> Row:
    """A row as the database gave it.

    Raises:
        RefusedError: if a column has a type that is never written.
    """
    if len(found) != len(_TYPES) or any(type(v) not in kinds for v, kinds in zip(found, _TYPES, strict=True)):
        raise RefusedError("a record of the sealed cache has another form than those that are written")
    return Row(*found)  # type: ignore[arg-type]  # checked just above, in a way that mypy does not follow


def _describe(ref: str, version: str | None, fetched_at: int, until: int, binding: bytes) -> bytes:
    return _ENCODE(("secret-broker cache record", FORMAT, ref, version, fetched_at, until, binding))


def _derive(master: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(key=master, person=person, digest_size=aead.KEY_BYTES).digest()
