"""The two ceremonies of WebAuthn, by the library `webauthn`: registering a credential, and signing with it."""

from webauthn import verify_authentication_response
from webauthn.helpers import bytes_to_base64url, parse_client_data_json
from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

from broker_worker.core.approvals import WebAuthnProof
from broker_worker.core.approvers import WebAuthnKey


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
