"""A desk for tests of writes: who may write what, and what a write is answered."""

import base64
from pathlib import Path

from desk_workbench import DeskBench, Run
from people_desk import ALICE

from agent_sdk.wire.messages import Operation, Result
from agent_sdk.wire.sealing import run_public_key
from broker_worker.ports import Entry

POLICY = """
    agents:
      claude:
        allow:
          - {secret: openai.api_key, actions: [resolve, write], overwrite: true}
          - {pattern: made.*, actions: [write, generate]}
          - {secret: made.mine, actions: [resolve]}
          - {secret: made.replaceable, actions: [write], overwrite: true, approval: {approvers: [ops]}}
          - {secret: made.guarded, actions: [write], approval: {approvers: [ops], grant: once}}
      codex:
        allow: [openai.api_key, made.key]
"""
SECRETS = """
    secrets:
      openai.api_key: "local://openai"
    create_in:
      - {pattern: made.*, ref: "local://agents.{name}"}
"""


def bench_in(folder: Path, policy: str = POLICY) -> DeskBench:
    """A desk at which claude may write."""
    folder.mkdir(exist_ok=True)
    public = base64.urlsafe_b64encode(run_public_key(ALICE)).decode().rstrip("=")
    (folder / "approvers.yaml").write_text(
        f"approvers:\n  - {{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {public}}}]}}\n"
    )
    return DeskBench(folder, policy=policy, registry=SECRETS)


async def ask(bench: DeskBench, run: Run, body: Operation, entry: Entry | None = None) -> Result:
    """What a write is answered."""
    entry = bench.entry(run, None, body=body) if entry is None else entry
    (answer,) = await bench.finish(await bench.serve(entry))
    reply = run.open(answer.envelope)
    return reply.results[0] if reply.results else Result("none", "refused", code=reply.code)
