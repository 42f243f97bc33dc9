"""Session certificates: the broker's identity vouches for a worker's X25519 session key.

A worker makes a session key when it starts and rotates it while it runs; it is never written anywhere. Every reply
carries the certificate, so a client that pins the broker's identity knows whom it talks to, and a key that leaks
later opens nothing of the past.
"""

from typing import Annotated

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Time

_TAG = b"secret-broker session certificate v1\x00"
_SIGNATURE_BYTES = 64


class SessionCertificate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """`[session_public_key, not_before, not_after, worker_id, signature]`; times in ms since the epoch."""

    session_public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    not_before: Time
    not_after: Time
    worker_id: Annotated[str, Meta(min_length=1, max_length=96)]
    signature: Annotated[bytes, Meta(min_length=_SIGNATURE_BYTES, max_length=_SIGNATURE_BYTES)]


_CERTIFICATE = Codec(SessionCertificate, "session certificate", 512)


def _statement(session_public_key: bytes, not_before: int, not_after: int, worker_id: str) -> bytes:
    unsigned = SessionCertificate(session_public_key, not_before, not_after, worker_id, bytes(_SIGNATURE_BYTES))
    return _TAG + _CERTIFICATE.encode(unsigned)


def issue_certificate(
    identity_seed: bytes, session_public_key: bytes, not_before: int, not_after: int, worker_id: str
) -> bytes:
    """Certify a worker's session key.

    Args:
        identity_seed: the 32-byte seed of the broker's Ed25519 identity key.
        session_public_key: the X25519 public half, 32 bytes.
        not_before: first moment of validity, ms since the epoch.
        not_after: last moment of validity, ms since the epoch.
        worker_id: names the worker process in the audit.

    Returns:
        The encoded certificate.
    """
    _, secret = sodium.crypto_sign_seed_keypair(identity_seed)
    statement = _statement(session_public_key, not_before, not_after, worker_id)
    signature = sodium.crypto_sign(statement, secret)[:_SIGNATURE_BYTES]
    return _CERTIFICATE.encode(SessionCertificate(session_public_key, not_before, not_after, worker_id, signature))


def _is_signed(statement: bytes, signature: bytes, public_key: bytes) -> bool:
    if len(public_key) != sodium.crypto_sign_PUBLICKEYBYTES:  # the binding would read past a shorter one
        return False
    try:
        sodium.crypto_sign_open(signature + statement, public_key)
    except BadSignatureError:
        return False
    return True


def verify_certificate(raw: bytes, identity_public_key: bytes, now: int, skew: int = 0) -> SessionCertificate:
    """Verify a certificate against the pinned broker identity.

    Args:
        raw: the encoded certificate.
        identity_public_key: the broker's Ed25519 identity, pinned by the run credential.
        now: the time, ms since the epoch.
        skew: how far clocks may differ, in ms.

    Raises:
        WireError: `unauthenticated` if another key signed it, `expired` outside its validity.
    """
    certificate = _CERTIFICATE.decode(raw)
    statement = _statement(
        certificate.session_public_key, certificate.not_before, certificate.not_after, certificate.worker_id
    )
    if not _is_signed(statement, certificate.signature, identity_public_key):
        raise WireError(
            "the reply's certificate was not signed by the broker that this run trusts",
            code=Code.UNAUTHENTICATED,
            reason="bad_certificate",
        )
    if not certificate.not_before - skew <= now <= certificate.not_after + skew:
        raise WireError(
            "the reply's certificate is outside its validity: compare this host's clock with the broker's",
            code=Code.EXPIRED,
            reason="bad_certificate",
        )
    return certificate
