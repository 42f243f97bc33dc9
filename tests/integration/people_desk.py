"""A desk that asks ops for one of claude's two names, people who decide, and an operator who revokes."""

import base64
import secrets
from pathlib import Path
from typing import Any

from desk_workbench import CONTROL_SEED, IDENTITY, NOW, DeskBench, Run

from agent_sdk.wire.messages import NOTICE, Notice, Result
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.approvals import ApprovalRequest, Decision, sign_decision
from broker_worker.core.control import decision_message, revocation_message
from broker_worker.core.revocations import Kind, Revocation, sign_revocation
from broker_worker.pipeline.letters import Letter
from broker_worker.pipeline.session import Nonces, start_session

ALICE = bytes([11]) * 32
GUARDED = "anthropic.api_key"
POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - {secret: anthropic.api_key, approval: {approvers: [ops], ttl: 10m, grant: %s}}
      codex:
        allow: [openai.api_key]
"""
IDENTITY_PUBLIC = run_public_key(IDENTITY)
SESSION = start_session(IDENTITY, "worker-1", NOW, bytes([12]) * 32)


def bench_with(folder: Path, grant: str) -> DeskBench:
    """A desk whose approvals are good for that."""
    folder.mkdir(exist_ok=True)
    public = base64.urlsafe_b64encode(run_public_key(ALICE)).decode().rstrip("=")
    (folder / "approvers.yaml").write_text(
        f"approvers:\n  - {{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {public}}}]}}\n"
    )
    return DeskBench(folder, policy=POLICY % grant)


def asked(bench: DeskBench) -> list[ApprovalRequest]:
    """What people are asked."""
    return list(bench.affairs.unpublished.values())


def decide(bench: DeskBench, request: ApprovalRequest, verdict: Any = "approve", at: int | None = None) -> list[Letter]:
    """Alice decides; what the runs are told."""
    when = bench.clock.now() if at is None else at
    decision = sign_decision(request.digest(), verdict, "alice", when, ALICE + run_public_key(ALICE))
    return take(bench, decision)


def take(bench: DeskBench, decision: Decision) -> list[Letter]:
    """A decision arrives over the queue."""
    desk = bench.desk
    return bench.affairs.take_control(decision_message(decision), desk.configuration, bench.clock.now())


def order(kind: Kind, subject: str, **other: Any) -> Revocation:
    """An operator's order."""
    values: dict[str, Any] = {
        "revocation_id": "0" * 16,
        "order": "revoke",
        "at": NOW,
        "reason": "leaked",
        "by": "olivia",
    }
    return Revocation(kind=kind, subject=subject, **{**values, **other})


def revoke(bench: DeskBench, revocation: Revocation) -> list[Letter]:
    """The order arrives over the queue; what the runs are told."""
    signed = sign_revocation(revocation, CONTROL_SEED + run_public_key(CONTROL_SEED))
    desk = bench.desk
    return bench.affairs.take_control(revocation_message(signed), desk.configuration, bench.clock.now())


def notice(run: Run, letter: Letter) -> Notice:
    """What a letter says to its run."""
    assert letter.reply_stream == run.channel.replies
    envelope = letter.seal(SESSION, Nonces(secrets.token_bytes))
    found = run.channel.open(envelope, run.now())
    assert isinstance(found, Notice)
    assert NOTICE.encode(found)
    return found


async def granted(bench: DeskBench, run: Run, name: str = "openai.api_key") -> Result:
    """A granted name's result."""
    result = await bench.ask_one(run, name)
    assert result.outcome == "granted"
    return result
