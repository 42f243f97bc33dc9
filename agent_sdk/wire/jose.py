"""Compact JWTs signed with Ed25519, and nothing else of JOSE: what identity tokens and proofs of possession share."""

import base64
from typing import Any, Final

from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

ALGORITHMS: Final = ("Ed25519", "EdDSA")
"""The one algorithm under its two names (RFC 9864, RFC 8037). We write the first."""


def base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def public_jwk(public_key: bytes, **more: str) -> dict[str, str | list[str]]:
    """An Ed25519 public key, 32 bytes, as a JWK (RFC 8037, section 2)."""
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url(public_key), **more}


def signing_key(seed: bytes) -> OKPKey:
    """The key of a 32-byte seed, for signing."""
    import nacl.bindings as sodium  # noqa: PLC0415  # only signers sign; verifiers do not pay for the import

    public, _ = sodium.crypto_sign_seed_keypair(seed)
    return OKPKey.import_key(public_jwk(public, d=base64url(seed)))


class _Registry(JWSRegistry):
    """Knows the one algorithm under its two names, without the warning that joserfc gives for RFC 8037's.

    Verification runs in threads, where silencing a warning would change the filters of the whole process.
    """

    def get_alg(self, name: str) -> Any:
        return super().get_alg(ALGORITHMS[0] if name in ALGORITHMS else name)


REGISTRY: Final = _Registry(algorithms=ALGORITHMS)
