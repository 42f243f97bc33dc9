"""Announcing a write to the workers of other hosts: signed by the broker, as anybody could tell them."""

from typing import Annotated

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Name, Time, Version
from agent_sdk.wire.names import is_secret_name

MAX_BYTES = 1024
_TAG = b"secret-broker write v1\x00"


class Announcement(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That a name has another value now. It names no place: each host has its own files.

    Args:
        write_id: 32 hexadecimal digits.
        name: the secret.
        at: when, ms since the epoch.
        version: the vault's own version of the new value, if it has one.
    """

    write_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    name: Name
    at: Time
    version: Version | None = None


class _Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: Annotated[bytes, Meta(max_length=MAX_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_BODY = Codec(Announcement, "announcement", MAX_BYTES)
_SIGNED = Codec(_Signed, "signed announcement", MAX_BYTES + 128)


def sign_announcement(announcement: Announcement, identity_secret: bytes) -> bytes:
    """The bytes for the control stream.

    Args:
        announcement: what was written.
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form.
    """
    raw = _BODY.encode(announcement)
    return _SIGNED.encode(_Signed(raw, sodium.crypto_sign(_TAG + raw, identity_secret)[:64]))


def open_announcement(raw: bytes, identity_public: bytes) -> Announcement:
    """Read such bytes.

    Raises:
        WireError: if they are not canonical, or the broker did not sign them.
    """
    signed = _SIGNED.decode(raw)
    try:
        sodium.crypto_sign_open(signed.signature + _TAG + signed.body, identity_public)
    except BadSignatureError:
        raise WireError("announcement: not signed by this broker", reason="forged") from None
    announcement = _BODY.decode(signed.body)
    if not is_secret_name(announcement.name):
        raise WireError("announcement: of no secret name", reason="bad_name")
    return announcement
