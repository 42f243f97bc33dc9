"""An authenticator in software: it makes real registrations and assertions, and wrong ones when asked to."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from webauthn.helpers import bytes_to_base64url

from broker_worker.core.approvals import Decision, WebAuthnProof, decision_challenge
from broker_worker.core.approvers import WebAuthnKey

ORIGIN = "http://localhost:7710"
_PRESENT, _VERIFIED, _ATTESTED = 0x01, 0x04, 0x40


@dataclass
class SoftwareAuthenticator:
    """One ES256 credential.

    Args:
        rp_id: the host name that it was made for.
        sign_count: what its counter says.
    """

    rp_id: str = "localhost"
    sign_count: int = 0
    credential_id: bytes = field(default_factory=lambda: os.urandom(16))
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def cose(self) -> bytes:
        """The public half as a COSE key (RFC 9053, section 7.1.1)."""
        numbers = self.private.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        return bytes(cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y}))

    @property
    def key(self) -> WebAuthnKey:
        """As approvers.yaml knows it."""
        return WebAuthnKey(self.credential_id, self.cose, self.rp_id)

    def sign(self, challenge: bytes, /, *, flags: int = _PRESENT | _VERIFIED, **client_data: Any) -> WebAuthnProof:
        """An assertion over a challenge; `client_data` replaces what the browser would say."""
        collected = {
            "type": "webauthn.get",
            "challenge": bytes_to_base64url(challenge),
            "origin": ORIGIN,
            "crossOrigin": False,
            **client_data,
        }
        raw = json.dumps(collected).encode()
        data = hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.sign_count.to_bytes(4, "big")
        signature = self.private.sign(data + hashlib.sha256(raw).digest(), ec.ECDSA(hashes.SHA256()))
        return WebAuthnProof(self.credential_id, data, raw, signature)

    def decide(self, request: bytes, verdict: Any, approver: str, decided_at: int, reason: str = "") -> Decision:
        """A decision signed by this authenticator."""
        proof = self.sign(decision_challenge(request, verdict, approver, decided_at, reason))
        return Decision(
            request=request, verdict=verdict, approver=approver, decided_at=decided_at, reason=reason, proof=proof
        )

    def register(
        self, challenge: str, origin: str, *, flags: int = _PRESENT | _VERIFIED | _ATTESTED, rp_id: str | None = None
    ) -> dict[str, Any]:
        """What a page sends after `navigator.credentials.create()`, as `PublicKeyCredential.toJSON` writes it.

        Args:
            challenge: base64url, from the options.
            origin: where the browser is.
            flags: what the authenticator says that it did.
            rp_id: what the credential is made for, if not `self.rp_id`.
        """
        client_data = {"type": "webauthn.create", "challenge": challenge, "origin": origin, "crossOrigin": False}
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + self.cose
        data = hashlib.sha256((rp_id or self.rp_id).encode()).digest() + bytes([flags]) + bytes(4) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        identifier = bytes_to_base64url(self.credential_id)
        return {
            "id": identifier,
            "rawId": identifier,
            "type": "public-key",
            "response": {
                "clientDataJSON": bytes_to_base64url(json.dumps(client_data).encode()),
                "attestationObject": bytes_to_base64url(attestation),
            },
        }
