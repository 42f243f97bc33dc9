"""What tests with people share: a home whose policy asks ops for one of two names, and people who decide."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest
from broker_home import Home
from desk_workbench import until
from redis import Redis

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted
from agent_sdk.wire import keynames
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.approvals import ApprovalRequest, Verdict, open_request, sign_decision
from broker_worker.core.control import decision_message
from broker_worker.files.keys import load_broker_keys

ALICE, BOB, MALLORY = (bytes([n]) * 32 for n in (11, 12, 13))
POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - secret: anthropic.api_key
            approval: {{approvers: [ops], quorum: {quorum}, ttl: 10m, grant: {grant}}}
"""


def approvers(**people: bytes) -> str:
    """The text of approvers.yaml."""
    lines = ["approvers:"]
    for name, seed in people.items():
        public = base64.urlsafe_b64encode(run_public_key(seed)).decode().rstrip("=")
        lines.append(f"  - {{name: {name}, groups: [ops], keys: [{{kind: ed25519, public_key: {public}}}]}}")
    return "\n".join(lines) + "\n"


def furnish(home: Home, quorum: int = 1, grant: str = "once", people: Mapping[str, bytes] | None = None) -> None:
    """A policy that asks ops for one of two names, and who ops are."""
    path = home.settings.config_dir / "approvers.yaml"
    path.write_text(approvers(**(people if people is not None else {"alice": ALICE, "bob": BOB})))
    home.write(policy=POLICY.format(quorum=quorum, grant=grant))


async def asked(home: Home, count: int = 1) -> list[ApprovalRequest]:
    """What people are asked, once there is so much of it."""
    identity = load_broker_keys(home.settings.keys_dir).identity_public
    redis = home.redis()

    def look() -> list[ApprovalRequest]:
        entries: Any = redis.xrange(keynames.APPROVALS)
        mine = [open_request(fields[b"m"], identity) for _, fields in entries if _is_of(fields[b"m"], identity)]
        return mine if len(mine) >= count else []

    try:
        found: list[ApprovalRequest] = await until(look)
        return found
    finally:
        redis.close()


def _is_of(raw: bytes, identity: bytes) -> bool:
    try:
        open_request(raw, identity)
    except Exception:  # noqa: BLE001  # another test's installation on the shared server
        return False
    return True


def decide(home: Home, request: ApprovalRequest, who: str = "alice", seed: bytes = ALICE, **other: Any) -> None:
    """Put a person's decision onto the queue."""
    verdict: Verdict = other.get("verdict", "approve")
    at = other.get("at", home.clock.now())
    secret = seed + run_public_key(seed)
    decision = sign_decision(request.digest(), verdict, who, at, secret, other.get("reason", ""))
    redis = home.redis()
    redis.xadd(keynames.CONTROL, {keynames.MESSAGE_FIELD: decision_message(decision)})
    redis.close()


def refusal(error: NotGranted) -> str:
    """The code of the one refused name."""
    return error.refusals[0].code.value


@pytest.fixture
def desk(home: Home, valkey_url: str) -> Home:
    """An installation whose second name needs an approval, on a queue without older matters."""
    with Redis.from_url(valkey_url) as redis:
        redis.delete(keynames.APPROVALS, keynames.CONTROL)
    furnish(home)
    return home


async def waiting_for(claude: AsyncSecretBroker, **other: Any) -> "asyncio.Task[Any]":
    """A client that asks and waits."""
    return asyncio.create_task(claude.get("anthropic.api_key", **{"purpose": "deploy", **other}))
