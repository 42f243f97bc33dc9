"""What a write may have replaced whose worker died is not restored from the sealed cache."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench, Run

from agent_sdk.wire.messages import Operation, Result
from broker_worker.app import sealing
from broker_worker.app.compose import _restore
from broker_worker.pipeline.superseding import Superseding
from broker_worker.ports import CachedValue, Entry, Fetched, WriteNote

POLICY = """
    agents:
      claude:
        allow:
          - {pattern: made.*, actions: [write, generate]}
          - {secret: made.mine, actions: [resolve]}
      codex:
        allow: [openai.api_key]
"""
SECRETS = """
    secrets:
      openai.api_key: "local://openai"
    create_in:
      - {pattern: made.*, ref: "local://agents.{name}"}
"""


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return DeskBench(tmp_path / "config", policy=POLICY, registry=SECRETS)


async def ask(bench: DeskBench, run: Run, body: Operation, entry: Entry | None = None) -> Result:
    """What a request is answered."""
    entry = bench.entry(run, None, body=body) if entry is None else entry
    (answer,) = await bench.finish(await bench.serve(entry))
    reply = run.open(answer.envelope)
    return reply.results[0] if reply.results else Result("none", "refused", code=reply.code)


def test_a_copy_from_before_an_unfinished_write_is_not_restored(
    bench: DeskBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what came of it until it is overdue, two minutes later."""
    ref, affairs = "local://openai", bench.affairs
    bench.write_log.note([WriteNote("ab" * 16, "begun", "openai.api_key", ref, NOW)])
    started: Any = Superseding(bench.write_log, bytes(64), bench.cache, affairs.leases)
    affairs.superseding = started
    kept = CachedValue(Fetched(b"old value", "7"), NOW - 1_000)
    monkeypatch.setattr(sealing, "restored", lambda *_: [(ref, kept, NOW + 600_000)])
    _restore(bench.cache, SimpleNamespace(start=lambda _: []), bench.desk)  # type: ignore[arg-type]  # only started
    assert bench.cache.get(ref, 600_000, NOW) is None
