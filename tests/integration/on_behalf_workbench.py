"""What tests of asking on behalf of a run share: who acts for whom, what a run shows, and what was refused."""

from pathlib import Path
from typing import Any

from desk_workbench import DeskBench, Run

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Operation, Reply, Resolve, Subject, Way
from agent_sdk.wire.proof import sign_proof

GATEWAY = "http://127.0.0.1:7700"
POLICY = f"""
    agents:
      claude:
        allow:
          - openai.api_key
          - {{secret: anthropic.api_key, deliver: [proxy]}}
      codex:
        proof: required
        allow: [openai.api_key]
      grok:
        allow: [openai.api_key]
      egress:
        allow: []
        acts_for: {{agents: [claude, codex], deliver: [proxy]}}
      gateway:
        allow: []
        acts_for: {{all_agents: true, deliver: [value], audience: "{GATEWAY}"}}
"""
KEY, PROXIED = "openai.api_key", "anthropic.api_key"


def acting_desk(folder: Path) -> DeskBench:
    """A desk with two agents that act for others."""
    return DeskBench(folder / "config", policy=POLICY)


def shown(run: Run, **claims: Any) -> Subject:
    """What a run shows of itself; with a proof if an audience is named."""
    credential = run.credential
    if not claims:
        return Subject(credential.token)
    audience, now = claims["audience"], claims.get("now", run.now())
    seed = claims.get("seed", credential.seed)
    return Subject(credential.token, sign_proof(seed, credential.token, audience, now, 60_000, "once"))


async def ask(bench: DeskBench, actor: Run, subject: Subject, name: str = PROXIED, way: Way = "proxy") -> Reply:
    """One request of an actor on behalf of a run."""
    body: Operation = Resolve((name,), "a call", None, way, subject)
    return await bench.ask(actor, body=body)


def refusal(bench: DeskBench) -> tuple[str | None, Code | None, str | None]:
    """Whom the last record of the audit is about, what was answered, and why."""
    record = bench.sink.records[-1]
    return record.agent_id, record.code, record.reason
