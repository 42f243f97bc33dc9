"""Sealed envelopes: who may open what, and nothing else readable (docs/protocol.md, "Envelope").

An envelope is the msgpack array `[version, kind, key_id, run_public_key, nonce, ciphertext]`. The associated data
is every byte before the nonce, then the name of the key that it is written to, so a message that is moved to
another stream, or whose header is changed, does not open.

Long-term and session halves are X25519. A run has one Ed25519 key pair, whose X25519 form is derived here.
"""

import hashlib
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Final, Literal

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import CryptoError

from agent_sdk.wire import aead
from agent_sdk.wire.codec import MAX_ENVELOPE, MAX_PLAINTEXT, Codec, pad, unpad
from agent_sdk.wire.errors import Code, WireError

VERSION: Final = 1
KEY_BYTES = aead.KEY_BYTES
NONCE_BYTES = aead.NONCE_BYTES
_TAG_BYTES = aead.TAG_BYTES
_NONCE_FIELD = 2 + NONCE_BYTES  # bin8 header and the nonce


class Kind(IntEnum):
    """What an envelope carries; also the direction that its key is derived for."""

    REQUEST = 1
    REPLY = 2
    NOTICE = 3


_PERSON = {Kind.REQUEST: b"sb1 request", Kind.REPLY: b"sb1 reply", Kind.NOTICE: b"sb1 notice"}
_PERSON_MARK = b"sb1 content"


class Envelope(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A parsed envelope; nothing in it is trusted before `open_envelope` succeeded.

    `key_id` of a request names the intake key (8 bytes); that of a reply or notice is the session certificate.
    """

    version: Literal[1]
    kind: Annotated[int, Meta(ge=1, le=3)]
    key_id: Annotated[bytes, Meta(min_length=8, max_length=512)]
    run_public_key: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    ciphertext: Annotated[bytes, Meta(min_length=_TAG_BYTES, max_length=MAX_PLAINTEXT + _TAG_BYTES)]


_ENVELOPE = Codec(Envelope, "envelope", MAX_ENVELOPE)
REQUEST_START_BYTES = 49
"""Length of `Opener.start` for requests: the header with an 8-byte key id and a 32-byte key, and that of the nonce."""
_NONCE_HEADER = b"\xc4\x18"
_BIN8, _BIN16 = 256, 65536


@lru_cache(maxsize=1024)  # as many lengths as padded plaintexts have
def _bin_header(size: int) -> bytes:
    """The header of a byte string in msgpack's shortest form (msgpack spec, "bin format family")."""
    if size < _BIN8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < _BIN16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def _header_bytes(raw: bytes, ciphertext_bytes: int) -> bytes:
    """The part of `raw` before the nonce."""
    tail = _NONCE_FIELD + len(_bin_header(ciphertext_bytes)) + ciphertext_bytes
    return raw[: len(raw) - tail]


def _header(kind: Kind, key_id: bytes, run_public_key: bytes) -> bytes:
    """What every envelope of one direction between two peers begins with."""
    shortest = Envelope(VERSION, kind, key_id, run_public_key, bytes(NONCE_BYTES), bytes(_TAG_BYTES))
    return _header_bytes(_ENVELOPE.encode(shortest), _TAG_BYTES)


def parse_envelope(raw: bytes) -> Envelope:
    """Parse an envelope without touching any key.

    Args:
        raw: what was found on the queue, at most 256 KiB.

    Raises:
        WireError: if it is too large or not a canonical envelope.
    """
    return _ENVELOPE.decode(raw)


def key_id(public_key: bytes) -> bytes:
    """The 8-byte name of an intake key: the start of the BLAKE2b-256 of its public half."""
    return hashlib.blake2b(public_key, digest_size=32).digest()[:8]


def run_exchange_public(run_public_key: bytes) -> bytes:
    """The X25519 form of a run's Ed25519 public key (libsodium `crypto_sign_ed25519_pk_to_curve25519`).

    Raises:
        WireError: if the bytes are no point of prime order.
    """
    try:
        return sodium.crypto_sign_ed25519_pk_to_curve25519(run_public_key)
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise WireError(
            "the run's public key is not a valid Ed25519 key", code=Code.UNAUTHENTICATED, reason="bad_run_key"
        ) from None


def run_exchange_secret(run_seed: bytes) -> bytes:
    """The X25519 form of a run's Ed25519 key, from its 32-byte seed."""
    _, secret = sodium.crypto_sign_seed_keypair(run_seed)
    return sodium.crypto_sign_ed25519_sk_to_curve25519(secret)


def run_public_key(run_seed: bytes) -> bytes:
    """The Ed25519 public key that belongs to a 32-byte seed."""
    public, _ = sodium.crypto_sign_seed_keypair(run_seed)
    return public


def derive_key(kind: Kind, secret: bytes, sender_public: bytes, recipient_public: bytes, peer: bytes) -> bytes:
    """Derive the AEAD key of one direction between two X25519 keys.

    `BLAKE2b-256(key=crypto_box_beforenm(peer, secret), person=direction, data=sender || recipient)`. Both sides
    derive it once a peer and keep it, so a message costs symmetric work only.

    Args:
        kind: the direction.
        secret: this side's X25519 secret.
        sender_public: the sender's X25519 public half.
        recipient_public: the recipient's X25519 public half.
        peer: whichever of the two is not this side's.

    Returns:
        32 bytes.

    Raises:
        WireError: if the peer's key is of low order, or a key does not have 32 bytes.
    """
    if len(sender_public) != KEY_BYTES or len(recipient_public) != KEY_BYTES:
        raise WireError(f"an exchange key must have {KEY_BYTES} bytes", reason="bad_run_key")
    try:
        shared = sodium.crypto_box_beforenm(peer, secret)
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise WireError("the peer's exchange key is not valid", reason="bad_run_key") from None
    return hashlib.blake2b(
        sender_public + recipient_public, digest_size=KEY_BYTES, key=shared, person=_PERSON[kind]
    ).digest()


class Sealer:
    """Seals messages of one direction between two peers, for one place on the queue.

    Args:
        kind: what the plaintexts are.
        key: the direction's key from `derive_key`.
        key_id: the intake key's name for requests, the session certificate for replies and notices.
        run_public_key: the run's Ed25519 public key.
        key_name: the queue key that the envelopes will be written to.
    """

    __slots__ = ("_aad", "_header", "_key")

    def __init__(self, kind: Kind, key: bytes, key_id: bytes, run_public_key: bytes, key_name: str) -> None:
        self._header = _header(kind, key_id, run_public_key)
        self._aad = self._header + key_name.encode()
        self._key = key

    def seal(self, plaintext: bytes, nonce: bytes) -> bytes:
        """Pad, encrypt and wrap a plaintext.

        Args:
            plaintext: an encoded message.
            nonce: 24 bytes that were never used with this key; random ones do.

        Returns:
            The envelope's bytes, at most 256 KiB.

        Raises:
            WireError: code `too_large` if the plaintext does not fit.
        """
        padded = pad(plaintext)
        if len(padded) > MAX_PLAINTEXT:
            raise WireError(
                f"the message has {len(plaintext)} bytes; at most {MAX_PLAINTEXT - 1} fit into an envelope",
                code=Code.TOO_LARGE,
                reason="too_large",
            )
        sealed = aead.encrypt(padded, self._aad, nonce, self._key)
        return b"".join((self._header, _NONCE_HEADER, nonce, _bin_header(len(sealed)), sealed))


class Opener:
    """Opens what the `Sealer` of the same arguments seals.

    Whoever hears the same peer again and again need not parse each envelope: all that is the same in them is compared
    as a whole, and what is left has one form.

    Args:
        kind: what the plaintexts are.
        key: the direction's key from `derive_key`.
        key_id: the intake key's name for requests, the session certificate for replies and notices.
        run_public_key: the run's Ed25519 public key.
        key_name: the queue key that the envelopes are found at.
    """

    __slots__ = ("_aad", "_key", "_nonce_at", "_sealed_at", "_start")

    def __init__(self, kind: Kind, key: bytes, key_id: bytes, run_public_key: bytes, key_name: str) -> None:
        header = _header(kind, key_id, run_public_key)
        self._start = header + _NONCE_HEADER
        self._nonce_at = len(self._start)
        self._sealed_at = self._nonce_at + NONCE_BYTES
        self._aad = header + key_name.encode()
        self._key = key

    @property
    def start(self) -> bytes:
        """What every envelope with these arguments begins with, and no other: up to the nonce."""
        return self._start

    def open(self, raw: bytes) -> bytes | None:
        """Open an envelope.

        Args:
            raw: what was found on the queue.

        Returns:
            The plaintext; None if it is not an envelope with these arguments: `parse_envelope` tells more.

        Raises:
            WireError: reason `cannot_open` if it was not sealed with this key, for this stream, as it stands.
        """
        if not raw.startswith(self._start):
            return None
        nonce = raw[self._nonce_at : self._sealed_at]
        tail = len(raw) - self._sealed_at
        size = tail - (2 if tail < _BIN8 + 2 else 3 if tail < _BIN16 + 3 else 5)
        if not _TAG_BYTES <= size <= MAX_PLAINTEXT + _TAG_BYTES or len(raw) > MAX_ENVELOPE:
            return None
        if raw[self._sealed_at : -size] != _bin_header(size):
            return None
        return _unsealed(self._key, raw[-size:], self._aad, nonce)

    def mark(self, content: bytes) -> bytes:
        """What stands for content of this direction where the content itself must not be (docs/protocol.md, "Writes").

        Keyed BLAKE2b-256 with the direction's key: only who could open the envelopes can test a guess, and nobody
        once the intake key is destroyed.
        """
        return hashlib.blake2b(content, digest_size=KEY_BYTES, key=self._key, person=_PERSON_MARK).digest()


def open_envelope(key: bytes, raw: bytes, envelope: Envelope, key_name: str) -> bytes:
    """Open an envelope that was parsed from `raw` and found at `key_name`.

    Returns:
        The plaintext.

    Raises:
        WireError: reason `cannot_open` if it was not sealed with this key, for this stream, as it stands.
    """
    try:
        aad = _header_bytes(raw, len(envelope.ciphertext)) + key_name.encode()
    except UnicodeEncodeError:  # a name that no queue key has
        raise _cannot_open() from None
    return _unsealed(key, envelope.ciphertext, aad, envelope.nonce)


def _unsealed(key: bytes, sealed: bytes, aad: bytes, nonce: bytes) -> bytes:
    try:
        padded = aead.decrypt(sealed, aad, nonce, key)
    except (ValueError, TypeError):
        padded = None
    if padded is None:
        raise _cannot_open()
    return unpad(padded)


def _cannot_open() -> WireError:
    return WireError(
        "the envelope does not open with this key at this place", code=Code.UNAUTHENTICATED, reason="cannot_open"
    )
