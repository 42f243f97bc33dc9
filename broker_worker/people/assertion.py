"""Whether a browser's assertion is what a person's own authenticator signed, after it verified the person."""

from broker_worker.core.approvals import WebAuthnProof
from broker_worker.core.approvers import WebAuthnKey


def check_assertion(proof: WebAuthnProof, key: WebAuthnKey, challenge: bytes, origins: tuple[str, ...]) -> bool:
    """Verify an assertion (WebAuthn Level 3, section 7.2); user verification is required.

    The authenticator's signature counter is not compared with an earlier one. It would have to be kept, by every worker
    alike, and it tells a cloned authenticator from its original only where both are used. A replay needs no counter:
    the challenge is the digest of one decision, and a decision counts once.

    Args:
        proof: what the browser handed over.
        key: the credential that it must be by.
        challenge: what must have been signed.
        origins: where the browser may have been.

    Returns:
        Whether credential, signature, challenge, origin, relying party and the verified user are all right. Whatever
        cannot be read is not.
    """
    from broker_worker.people.ceremonies import verify_assertion  # noqa: PLC0415  # see below

    # Loading the library takes several MiB, and a worker whose approvers all sign in the terminal never needs it.
    return verify_assertion(proof, key, challenge, origins)
