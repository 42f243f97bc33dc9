"""Orders of an operator, while the disk is full, or by a dashboard that was taken over and has the control key."""

from pathlib import Path

import pytest
from desk_workbench import CONTROL_SEED, DeskBench
from people_desk import bench_with, order, revoke

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.revocations import sign_revocation
from broker_worker.state.revocation_file import RevocationFile


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk of claude and codex."""
    return bench_with(tmp_path, "once")


def poll(bench: DeskBench) -> None:
    """The worker looks at its files."""
    bench.affairs.poll(bench.desk.configuration, bench.clock.now())


async def test_an_order_of_a_time_that_there_is_not_counts_for_nothing(bench: DeskBench, tmp_path: Path) -> None:
    """It must not keep workers from the orders of the file."""
    public = run_public_key(CONTROL_SEED)
    bench.affairs._log = orders = RevocationFile(tmp_path / "state" / "revocations.jsonl", public)
    revoke(bench, order("agent", "codex", order="reinstate", at=253_402_300_800_000))
    orders.append(sign_revocation(order("agent", "codex"), CONTROL_SEED + public))
    poll(bench)
    assert (await bench.ask(bench.run("codex"), body=Resolve(("openai.api_key",)))).code == Code.REVOKED


async def test_what_was_revoked_while_the_disk_was_full_is_recorded_later(bench: DeskBench) -> None:
    """The order holds at once; when the disk is back, the audit has it and the lease that it ended, once."""
    await bench.ask(bench.run(), "openai.api_key")
    bench.sink.is_full = True
    bench.orders.new.append(order("agent", "claude"))
    for _ in range(3):
        poll(bench)
    bench.sink.is_full = False
    for _ in range(2):
        poll(bench)
    assert [(record.event, record.subject) for record in bench.sink.records[1:]] == [
        ("revoked", "agent:claude"),
        ("lease_ended", "agent:claude"),
    ]
