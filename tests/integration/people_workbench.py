"""What tests of approvals share: people with keys, requests that the broker signed, a home that asks people."""

import base64
from typing import Any, Literal

import nacl.bindings as sodium
from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.core.approvals import ApprovalRequest, Decision, sign_decision, sign_request
from broker_worker.core.approvers import Approver, Approvers, Ed25519Key
from broker_worker.core.control import decision_message
from broker_worker.core.policy import Origin
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import load_broker_keys
from broker_worker.settings import Settings

NOW = 1_900_000_000_000
"""In the future: to a clock that is far behind the queue's, each of its entries looks spoiled."""
MINUTE = 60_000
POLICY = """
    agents:
      claude:
        allow:
          - {secret: openai.api_key, approval: {approvers: [ops]}}
"""


class Person:
    """Somebody with a terminal's key.

    Args:
        name: as approvers.yaml calls the person.
        groups: what the person belongs to.
    """

    def __init__(self, name: str, *groups: str) -> None:
        self.name = name
        self.groups = groups or ("ops",)
        self.seed = name.encode().ljust(32, b".")
        self.public, self.secret = sodium.crypto_sign_seed_keypair(self.seed)

    @property
    def approver(self) -> Approver:
        """As the configuration knows the person."""
        return Approver(self.name, self.groups, (Ed25519Key(self.public),), Origin("approvers.yaml", 1))

    @property
    def yaml(self) -> str:
        """As approvers.yaml says it, on one line."""
        key = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        return (
            f"{{name: {self.name}, groups: [{', '.join(self.groups)}], keys: [{{kind: ed25519, public_key: {key}}}]}}"
        )

    def decide(
        self, request: ApprovalRequest, verdict: Literal["approve", "deny"] = "approve", at: int = NOW, reason: str = ""
    ) -> Decision:
        """Sign a decision."""
        return sign_decision(request.digest(), verdict, self.name, at, self.secret, reason)


ALICE, BOB, CAROL = Person("alice"), Person("bob"), Person("carol", "leads")


def people(*persons: Person, **more: Any) -> Approvers:
    """A configuration's approvers."""
    return Approvers({person.name: person.approver for person in persons}, ("http://localhost:7710",), **more)


def request(**changes: Any) -> ApprovalRequest:
    """A request, with some of it changed."""
    fields: dict[str, Any] = {
        "agent_id": "claude",
        "run_id": "run-1",
        "run_key": bytes(32),
        "names": ("openai.api_key",),
        "action": "resolve",
        "purpose": "summarise the tickets",
        "task": "nightly",
        "policy": "f" * 64,
        "rule": "policy.yaml:5",
        "approvers": ("ops",),
        "quorum": 1,
        "grant": "once",
        "asked_at": NOW,
        "expires_at": NOW + 10 * MINUTE,
        "request_id": bytes(16),
        "worker": "worker-1",
    }
    return ApprovalRequest(**{**fields, **changes})


class AskingHome:
    """An installation whose policy asks people; no worker runs, the tests are the worker.

    Args:
        settings: where it is; its files and keys are there already.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        seed = load_broker_keys(settings.keys_dir).identity_seed
        _, self.identity_secret = sodium.crypto_sign_seed_keypair(seed)

    @property
    def policy(self) -> str:
        """Digest of the policy in force."""
        return load_configuration(self.settings.config_dir).policy.digest

    def set_people(self, *persons: Person) -> None:
        """Write approvers.yaml."""
        lines = "".join(f"  - {person.yaml}\n" for person in persons)
        text = f"approvers:\n{lines}" if persons else "approvers: []\n"
        path = self.settings.config_dir / "approvers.yaml"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    def ask(self, redis: "Redis", now: int, **changes: Any) -> ApprovalRequest:
        """Ask people, as a worker does."""
        changes.setdefault("request_id", now.to_bytes(16, "big"))
        asked = request(policy=self.policy, asked_at=now, expires_at=now + 10 * MINUTE, **changes)
        redis.xadd(keynames.APPROVALS, {keynames.MESSAGE_FIELD: sign_request(asked, self.identity_secret)})
        return asked


def put_decision(redis: "Redis", decision: Decision) -> None:
    """Put a decision onto the queue, whatever it is worth."""
    redis.xadd(keynames.CONTROL, {keynames.MESSAGE_FIELD: decision_message(decision)})
