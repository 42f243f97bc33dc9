"""The two ceremonies of WebAuthn, by the library `webauthn`: registering a credential, and signing with it."""

import hashlib
from collections.abc import Sequence

from webauthn import (
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import bytes_to_base64url, parse_client_data_json
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from broker_worker.core.approvals import WebAuthnProof
from broker_worker.core.approvers import WebAuthnKey
from broker_worker.core.errors import ApprovalError

_ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,  # Windows Hello on most hosts
]


def registration_options(name: str, rp_id: str, challenge: bytes, known: Sequence[WebAuthnKey]) -> str:
    """What a browser needs to make a credential (WebAuthn Level 3, section 5.4), as JSON.

    Args:
        name: the person, shown by the authenticator.
        rp_id: the host name that the credential is for.
        challenge: random bytes.
        known: the person's credentials, so that one authenticator is not registered twice.
    """
    options = generate_registration_options(
        rp_id=rp_id,
        rp_name="Secret Broker",
        user_name=name,
        user_id=hashlib.sha256(b"secret-broker approver\x00" + name.encode()).digest(),
        challenge=challenge,
        attestation=AttestationConveyancePreference.NONE,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.DISCOURAGED,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=key.credential_id) for key in known],
        supported_pub_key_algs=_ALGORITHMS,
    )
    return options_to_json(options)


def verify_registration(answer: str, challenge: bytes, rp_id: str, origin: str) -> WebAuthnKey:
    """Verify what a browser made (WebAuthn Level 3, section 7.1); user verification is required.

    Args:
        answer: the credential as `PublicKeyCredential.toJSON` writes it.
        challenge: what it must have been made for.
        rp_id: the host name that it must be for.
        origin: where the browser must have been.

    Raises:
        ApprovalError: if it is anything else.
    """
    try:
        verified = verify_registration_response(
            credential=answer,
            expected_challenge=challenge,
            expected_rp_id=rp_id,
            expected_origin=origin,
            require_user_verification=True,
            supported_pub_key_algs=_ALGORITHMS,
        )
    except Exception:  # noqa: BLE001  # on bytes that somebody made up, the library also raises KeyError and the like
        verified = None
    if verified is None or not verified.user_verified:
        raise ApprovalError("this is no new credential of a verified user for this page", hint="try again")
    return WebAuthnKey(verified.credential_id, verified.credential_public_key, rp_id)


def verify_assertion(proof: WebAuthnProof, key: WebAuthnKey, challenge: bytes, origins: tuple[str, ...]) -> bool:
    """See `broker_worker.people.assertion.check_assertion`, which loads this module when it is first needed."""
    if proof.credential_id != key.credential_id:
        return False
    credential = AuthenticationCredential(
        id=bytes_to_base64url(proof.credential_id),
        raw_id=proof.credential_id,
        response=AuthenticatorAssertionResponse(
            client_data_json=proof.client_data_json,
            authenticator_data=proof.authenticator_data,
            signature=proof.signature,
        ),
    )
    try:
        if parse_client_data_json(proof.client_data_json).cross_origin:
            return False  # signed in a frame that another page showed
        verified = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=key.rp_id,
            expected_origin=list(origins),
            credential_public_key=key.public,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except Exception:  # noqa: BLE001  # on bytes that somebody made up, the library also raises KeyError and the like
        return False
    return verified.user_verified
