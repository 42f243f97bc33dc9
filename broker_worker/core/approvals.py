"""What a person is asked, and what a person answers: canonical bytes, and what is signed.

A request is signed by the broker's identity, so that nobody else can ask people. A decision is a signature over the
request's digest, the verdict and the reason; it names the approver and the key, and holds nothing that could be
trusted without the signature (docs/protocol.md, "Approvals").
"""

import hashlib
from typing import Annotated, Final, Literal

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_NAMES, Delivery, Name, Purpose, RequestId, Time

MAX_REASON: Final = 256
MAX_BYTES: Final = 32 * 1024
"""Largest request or decision on the queue, bytes."""
_REQUEST_TAG = b"secret-broker approval request v1\x00"
_DECISION_TAG = b"secret-broker approval decision v1\x00"
_DENIAL_TAG = b"secret-broker approval denial v1\x00"

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Text = Annotated[str, Meta(max_length=256)]
Verdict = Literal["approve", "deny"]


class ApprovalRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a person is asked to allow. Times are ms since the epoch.

    Args:
        agent_id: who asks, from the verified token.
        run_id: in which run.
        run_key: the run's Ed25519 public key; the value would be sealed to it, or to that of who acts for the run.
        names: the secrets that one decision is about, sorted.
        action: what for: `resolve`, …
        purpose: what the agent says that it is for.
        task: what the token says that the run is for.
        policy: digest of the policy in force; another policy voids the request.
        rule: where the policy entry stands, `policy.yaml:12`.
        approvers: groups and names of people who may decide.
        quorum: how many of them must approve.
        grant: what an approval is good for: `once`, `run`, or seconds as `900s`.
        asked_at: when.
        expires_at: until when it may be decided.
        request_id: of the request that asked first; makes every approval request unique.
        asked_today: how many approvals this agent asked for in the last 24 hours, as far as the worker knows.
        worker: who asks on the agent's behalf.
        writes: of a write: `create` or `replace VERSION`, and the recipe of what is made.
        content: of a write: what `content_mark` says of the value, so that what was approved is what is written.
        deliver: of a read: how the value is to reach the work.
        actor: the agent that asks on behalf of the run, such as a proxy; empty if the run asks itself.
        actor_key: the Ed25519 public key of the run of that agent that asked first; it is told when it is settled.
    """

    agent_id: Text
    run_id: Text
    run_key: Digest
    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_NAMES)]
    action: Literal["resolve", "put", "generate"]
    purpose: Purpose
    task: Text | None = None
    policy: Text
    rule: Text
    approvers: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=64)]
    quorum: Annotated[int, Meta(ge=1, le=64)]
    grant: Annotated[str, Meta(pattern="^(once|run|[1-9][0-9]{0,8}s)$")]
    asked_at: Time
    expires_at: Time
    request_id: RequestId
    asked_today: Annotated[int, Meta(ge=0)] = 0
    worker: Text
    writes: Text = ""
    content: Digest | None = None
    deliver: Delivery = "value"
    actor: Text = ""
    actor_key: Digest | None = None

    def digest(self) -> bytes:
        """SHA-256 over all of it: what every decision is about."""
        return hashlib.sha256(_REQUEST_TAG + _REQUEST.encode(self)).digest()

    @property
    def approval_id(self) -> str:
        """The first 16 hexadecimal digits of the digest: what people and the audit call it."""
        return self.digest()[:8].hex()

    @property
    def denial_mark(self) -> str:
        """What a denial of it is remembered by, whoever made it: of the form of an approval's id."""
        return hashlib.sha256(_DENIAL_TAG + self.digest()).digest()[:8].hex()

    @property
    def grant_ms(self) -> int | None:
        """For how long an approval is good, ms; None for `once` and `run`."""
        return int(self.grant[:-1]) * 1000 if self.grant.endswith("s") else None


class Ed25519Proof(Struct, frozen=True, forbid_unknown_fields=True, tag="ed25519", tag_field="kind"):
    """A signature by a terminal's key over the decision's digest."""

    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class WebAuthnProof(Struct, frozen=True, forbid_unknown_fields=True, tag="webauthn", tag_field="kind"):
    """An assertion (WebAuthn Level 3, section 7.2) whose challenge is the decision's digest."""

    credential_id: Annotated[bytes, Meta(min_length=1, max_length=1024)]
    authenticator_data: Annotated[bytes, Meta(min_length=37, max_length=4096)]
    client_data_json: Annotated[bytes, Meta(min_length=1, max_length=4096)]
    signature: Annotated[bytes, Meta(min_length=1, max_length=1024)]


class Decision(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What one person decided.

    Args:
        request: digest of the approval request.
        verdict: `approve` or `deny`.
        approver: the name of the person in `approvers.yaml`.
        decided_at: when, ms since the epoch, by the person's clock.
        reason: in the person's words; for a denial.
        proof: the signature.
    """

    request: Digest
    verdict: Verdict
    approver: Text
    decided_at: Time
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""
    proof: Ed25519Proof | WebAuthnProof

    @property
    def approval_id(self) -> str:
        """What people and the audit call the request."""
        return self.request[:8].hex()

    def challenge(self) -> bytes:
        """What the proof must be a signature over."""
        return decision_challenge(self.request, self.verdict, self.approver, self.decided_at, self.reason)

    @property
    def mark(self) -> str:
        """What it is remembered by, once it is recorded: of the form of an approval's id."""
        return self.challenge()[:8].hex()


class _Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    request: Annotated[bytes, Meta(max_length=MAX_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class _Challenge(Struct, frozen=True, array_like=True):
    request: bytes
    verdict: Verdict
    approver: str
    decided_at: int
    reason: str


_REQUEST = Codec(ApprovalRequest, "approval request", MAX_BYTES)
_SIGNED = Codec(_Signed, "signed approval request", MAX_BYTES)
_DECISION = Codec(Decision, "decision", MAX_BYTES)
_CHALLENGE = Codec(_Challenge, "challenge", MAX_BYTES)


def decision_challenge(request: bytes, verdict: Verdict, approver: str, decided_at: int, reason: str) -> bytes:
    """What an approver signs: SHA-256 over the request's digest, the verdict, who decides, when, and the reason.

    Args:
        request: digest of the approval request, 32 bytes.
        verdict: `approve` or `deny`.
        approver: the name in `approvers.yaml`.
        decided_at: when, ms since the epoch.
        reason: in the person's words.

    Returns:
        32 bytes.
    """
    decided = _Challenge(request, verdict, approver, decided_at, reason)
    return hashlib.sha256(_DECISION_TAG + _CHALLENGE.encode(decided)).digest()


def sign_request(request: ApprovalRequest, identity_secret: bytes) -> bytes:
    """The bytes that go onto `sb:approvals`.

    Args:
        request: what is asked.
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form.
    """
    raw = _REQUEST.encode(request)
    return _SIGNED.encode(_Signed(raw, sodium.crypto_sign(_REQUEST_TAG + raw, identity_secret)[:64]))


def open_request(raw: bytes, identity_public: bytes) -> ApprovalRequest:
    """Read what stands on `sb:approvals`.

    Args:
        raw: an entry's bytes.
        identity_public: the broker's Ed25519 identity, 32 bytes.

    Raises:
        WireError: if it is not canonical, or the broker did not sign it.
    """
    signed = _SIGNED.decode(raw)
    try:
        sodium.crypto_sign_open(signed.signature + _REQUEST_TAG + signed.request, identity_public)
    except BadSignatureError:
        raise WireError("approval request: not signed by this broker", reason="forged") from None
    return _REQUEST.decode(signed.request)


def sign_decision(
    request: bytes, verdict: Verdict, approver: str, decided_at: int, secret: bytes, reason: str = ""
) -> Decision:
    """Decide with a terminal's Ed25519 key.

    Args:
        request: digest of the approval request, 32 bytes.
        verdict: `approve` or `deny`.
        approver: the name in `approvers.yaml`.
        decided_at: when, ms since the epoch.
        secret: the key in libsodium's 64-byte form.
        reason: in the person's words, at most 256 characters.

    Raises:
        ValueError: if the key has another length; the binding would read past its end.
    """
    if len(secret) != sodium.crypto_sign_SECRETKEYBYTES:
        raise ValueError(f"a key in libsodium's form has {sodium.crypto_sign_SECRETKEYBYTES} bytes")
    challenge = decision_challenge(request, verdict, approver, decided_at, reason)
    proof = Ed25519Proof(sodium.crypto_sign(challenge, secret)[:64])
    return Decision(
        request=request, verdict=verdict, approver=approver, decided_at=decided_at, reason=reason, proof=proof
    )


def encode_decision(decision: Decision) -> bytes:
    """The bytes of a decision."""
    return _DECISION.encode(decision)


def decode_decision(raw: bytes) -> Decision:
    """Read a decision; whether it counts is for `broker_worker.core.approvers` to say.

    Raises:
        WireError: if it is not canonical.
    """
    return _DECISION.decode(raw)
