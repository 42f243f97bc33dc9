"""The people who may decide, and whether a decision is really theirs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import nacl.bindings as sodium
from nacl.exceptions import BadSignatureError

from broker_worker.core.approvals import ApprovalRequest, Decision, Ed25519Proof, WebAuthnProof
from broker_worker.core.policy import Origin

MAX_OPEN_PER_RUN = 5
"""How many approvals one run may have waiting, unless `approvers.yaml` says otherwise."""


@dataclass(frozen=True, slots=True)
class Ed25519Key:
    """A terminal's key: 32 bytes."""

    public: bytes


@dataclass(frozen=True, slots=True)
class WebAuthnKey:
    """A platform authenticator or a security key (WebAuthn).

    Args:
        credential_id: names the credential.
        public: its COSE key.
        rp_id: the relying party that it was made for, such as `localhost`.
    """

    credential_id: bytes
    public: bytes
    rp_id: str


Key = Ed25519Key | WebAuthnKey


@dataclass(frozen=True, slots=True)
class Approver:
    """A person.

    Args:
        name: as `approvers.yaml` calls the person.
        groups: what `approval.approvers` of a policy entry may name besides.
        keys: with which the person decides.
        origin: where the person stands in the file.
    """

    name: str
    groups: tuple[str, ...]
    keys: tuple[Key, ...]
    origin: Origin

    def is_one_of(self, wanted: tuple[str, ...]) -> bool:
        """Whether groups and names that a policy entry lists include this person."""
        return self.name in wanted or not set(self.groups).isdisjoint(wanted)


WebAuthnCheck = Callable[[WebAuthnProof, WebAuthnKey, bytes, tuple[str, ...]], bool]
"""Whether an assertion by that key over that challenge, from one of those origins, is valid and verified its user."""


@dataclass(frozen=True, slots=True)
class Approvers:
    """Everybody who may decide.

    Args:
        people: by name.
        origins: where a browser may have been when it signed, such as `http://localhost:7710`.
        max_open_per_run: how many approvals one run may have waiting.
    """

    people: Mapping[str, Approver] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    max_open_per_run: int = MAX_OPEN_PER_RUN

    def holder_of(self, public: bytes) -> Approver | None:
        """The person whose terminal key has that public half."""
        return next((person for person in self.people.values() if Ed25519Key(public) in person.keys), None)

    def who_may(self, wanted: tuple[str, ...]) -> tuple[Approver, ...]:
        """The people that groups and names of a policy entry include."""
        return tuple(person for person in self.people.values() if person.is_one_of(wanted))

    def key_behind(self, decision: Decision, request: ApprovalRequest, check: WebAuthnCheck) -> Key | str:
        """The key of the approver's that made a decision, or why it does not count, as a slug.

        Args:
            decision: as read from the queue.
            request: the request that it names.
            check: verifies WebAuthn assertions.
        """
        person = self.people.get(decision.approver)
        if decision.request != request.digest():
            return "other_request"
        if person is None:
            return "unknown_approver"
        if not person.is_one_of(request.approvers):
            return "not_an_approver_of_this"
        return next((key for key in person.keys if self._signed(decision, key, check)), "bad_signature")

    def fault_of(self, decision: Decision, request: ApprovalRequest, check: WebAuthnCheck) -> str | None:
        """Why a decision does not count, as a slug; None if it does. See `key_behind`."""
        found = self.key_behind(decision, request, check)
        return found if isinstance(found, str) else None

    def _signed(self, decision: Decision, key: Key, check: WebAuthnCheck) -> bool:
        challenge, proof = decision.challenge(), decision.proof
        if isinstance(proof, Ed25519Proof):
            return isinstance(key, Ed25519Key) and _verifies(proof.signature, challenge, key.public)
        if not isinstance(key, WebAuthnKey) or key.credential_id != proof.credential_id:
            return False
        return check(proof, key, challenge, self.origins)


def _verifies(signature: bytes, message: bytes, public: bytes) -> bool:
    if len(public) != sodium.crypto_sign_PUBLICKEYBYTES:
        return False  # a key that the binding would read past
    try:
        sodium.crypto_sign_open(signature + message, public)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
