"""The schedule: a process of its own rotates what is due, by sealed jobs, and each thing once."""

import asyncio
import sys

from broker_home import Home, Processes, running_server
from click.testing import CliRunner
from desk_workbench import until

from broker_worker.cli import main
from broker_worker.core.rotation import RotationState
from broker_worker.files.keys import JOBS, ensure_seed
from broker_worker.state.rotation_file import RotationFile

LONG_AGO = 1_700_000_000_000


async def test_what_is_due_is_rotated_by_the_job_process(processes: Processes, embedded_home: Home) -> None:
    """One that was rotated long ago is; one without a schedule is not; workers that run hear of it."""
    rule = f'recipe: uuid4, old_leases: revoke, probe: {{command: ["{sys.executable}", "-c", "pass"]}}'
    embedded_home.write(
        broker="provider: {type: local}",
        registry=f"""
            secrets:
              due.key: {{ref: "local://due.key", rotation: {{every: 30d, {rule}}}}}
              asked.key: {{ref: "local://asked.key", rotation: {{{rule}}}}}
        """,
        policy="agents: {claude: {allow: [due.key, asked.key]}}",
    )
    settings = embedded_home.settings
    home = ["--home", str(settings.home)]
    assert CliRunner().invoke(main, [*home, "vault", "create"]).exit_code == 0
    for name in ("due.key", "asked.key"):
        put = await asyncio.to_thread(CliRunner().invoke, main, [*home, "put", name], "first")
        assert put.exit_code == 0, put.output
    file = RotationFile(settings.rotations_dir, "due.key")
    with file.held():
        file.store(
            RotationState(name="due.key", step="retired", started_at=LONG_AGO, replaces="1", ended_at=LONG_AGO + 1)
        )
    ensure_seed(settings.keys_dir / JOBS)
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
