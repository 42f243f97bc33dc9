"""The schedule: a process of its own rotates what is due, by sealed jobs, and each thing once."""

import asyncio
import sys
from pathlib import Path

import pytest
from broker_home import Home, Processes, running_server
from click.testing import CliRunner
from desk_workbench import until
from test_rotation import NAME, Bench, announced

from agent_sdk.wire import keynames
from broker_worker.app import operator_vault
from broker_worker.app.rotation_schedule import LOOK_EVERY_MS, Schedule
from broker_worker.cli import main
from broker_worker.core.rotation import RotationState
from broker_worker.files.keys import JOBS, ensure_seed
from broker_worker.state.rotation_file import RotationFile

LONG_AGO = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000


def write_due_key(home: Home, old_leases: str = "revoke") -> RotationFile:
    """A secret that was rotated long ago, and is to be every 30 days; and one that is rotated when somebody asks."""
    rule = f'recipe: uuid4, old_leases: {old_leases}, probe: {{command: ["{sys.executable}", "-c", "pass"]}}'
    home.write(
        broker="provider: {type: local}",
        registry=f"""
            secrets:
              due.key: {{ref: "local://due.key", rotation: {{every: 30d, {rule}}}}}
              asked.key: {{ref: "local://asked.key", rotation: {{{rule}}}}}
        """,
        policy="agents: {claude: {allow: [due.key, asked.key]}}",
    )
    arguments = ["--home", str(home.settings.home)]
    assert CliRunner().invoke(main, [*arguments, "vault", "create"]).exit_code == 0
    for name in ("due.key", "asked.key"):
        stored = CliRunner().invoke(main, [*arguments, "vault", "set", name], "first")
        assert stored.exit_code == 0, stored.output
    file = RotationFile(home.settings.rotations_dir, "due.key")
    with file.held():
        file.store(
            RotationState(name="due.key", step="retired", started_at=LONG_AGO, replaces="1", ended_at=LONG_AGO + 1)
        )
    ensure_seed(home.settings.keys_dir / JOBS)
    return file


async def test_what_is_due_is_rotated_by_the_job_process(processes: Processes, embedded_home: Home) -> None:
    """One that was rotated long ago is; one without a schedule is not; workers that run hear of it."""
    file = write_due_key(embedded_home)
    async with running_server(embedded_home):
        await processes.start_worker("worker-1")
        async with embedded_home.client() as claude:
            held = await claude.get("due.key")
            processes.start("jobs", "--queue", "rotations")
            await until(lambda: held.revoked, 60)
            assert (await claude.get("due.key")).version == "2"
            assert (await claude.get("asked.key")).version == "1"
        await until(lambda: (state := file.load()) is not None and state.step == "retired" and state.version == "2")
    steps = [(r.reason, r.approver) for r in embedded_home.records("rotation")]
    assert steps == [(step, "schedule") for step in ("started", "drafted", "probed", "promoted", "retired")]


async def test_what_the_schedule_of_up_records_is_on_the_stream(processes: Processes, embedded_home: Home) -> None:
    """The process that rotates may publish its audit: ledgers on other hosts see it at once."""
    write_due_key(embedded_home)
    processes.start("up", "--no-ledger", "--no-dashboard")
    published = b'"reason":"retired"'
    await until(lambda: "worker_ready" in processes.log, 60)
    with embedded_home.redis() as redis:
        await until(lambda: published in b"".join(map(lines_of, redis.xrange(keynames.AUDIT))), 60)
    assert "NoPermissionError" not in processes.log


def lines_of(entry: tuple[bytes, dict[bytes, bytes]]) -> bytes:
    """The lines of an entry of the audit's stream."""
    return entry[1].get(b"d", b"")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A secret that is due once a day, whose old leases are waited for."""
    monkeypatch.setattr(operator_vault, "announce", announced)
    bench = Bench(tmp_path / "home")
    bench.write(leases="wait\n      every: 1d")
    return bench


def test_a_job_that_waited_while_somebody_else_retired_begins_no_rotation(bench: Bench) -> None:
    """Two jobs, or a job and a command, wait for the same old leases: one of them ends the rotation, none another."""
    now = LONG_AGO
    schedule = Schedule(bench.settings, lambda: now)
    file = RotationFile(bench.settings.rotations_dir, NAME)
    assert asyncio.run(schedule.rotate(NAME)) is None
    now += DAY_MS
    waits = asyncio.run(schedule.rotate(NAME))
    assert waits is not None
    assert waits.state.step == "promoted"
    with file.held():
        file.store(RotationState(name=NAME, step="retired", started_at=now, replaces="1", version="2", ended_at=now))
    assert asyncio.run(schedule.rotate(NAME)) is None
    assert [record.reason for record in bench.records()] == ["started", "drafted", "probed", "promoted"]


def test_a_secret_that_was_never_rotated_is_due_after_a_period_whatever_was_restarted(bench: Bench) -> None:
    """Since when the schedule knows it is on disk, so a process that is started every day rotates it all the same."""
    assert list(Schedule(bench.settings, lambda: LONG_AGO).due()) == []
    assert list(Schedule(bench.settings, lambda: LONG_AGO + DAY_MS - 1).due()) == []
    restarted = Schedule(bench.settings, lambda: LONG_AGO + DAY_MS)
    assert list(restarted.due()) == [(NAME, LONG_AGO + DAY_MS)]
    bench.write()
    assert list(Schedule(bench.settings, lambda: LONG_AGO + DAY_MS + LOOK_EVERY_MS).due()) == []
    bench.write(leases="wait\n      every: 1d")
    assert list(Schedule(bench.settings, lambda: LONG_AGO + 2 * DAY_MS).due()) == []
