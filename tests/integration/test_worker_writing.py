"""Writes, whole: real clients, workers, queue and files; what others hold, a slow vault, a worker that is killed."""

import asyncio
import signal

import pytest
from broker_home import Home, Processes, running_server
from click.testing import CliRunner
from desk_workbench import until
from fake_vault import FakeVault

from agent_sdk import Conflict, Denied
from broker_worker.cli import main
from broker_worker.files.keys import load_seed
from broker_worker.providers.local_vault import LocalVault, VaultKeys

FILES = {
    "broker": "provider: {type: local}",
    "registry": 'secrets: {openai.api_key: "local://openai"}\ncreate_in: [{pattern: made.*, ref: "local://agents.{name}"}]',
    "policy": """
        limits:
          agent: {rate: 100000/s, burst: 100000}
          run: {rate: 100000/s, burst: 100000}
        agents:
          claude:
            allow:
              - {secret: openai.api_key, actions: [resolve, write], overwrite: true}
              - {pattern: made.*, actions: [write, generate]}
          codex: {allow: [openai.api_key, {pattern: made.*}]}
    """,
}


@pytest.fixture
def desk(home: Home) -> Home:
    """An installation at which claude may write what codex may read."""
    home.write(**FILES)
    return home


async def test_what_one_agent_stores_another_has_at_once(desk: Home) -> None:
    """On two workers that share the queue, whichever serves whom; the audit verifies."""
    vault = FakeVault()
    async with (
        desk.working(vault),
        desk.working(vault, name="worker-2"),
        desk.client() as claude,
        desk.client("codex") as codex,
    ):
        with pytest.raises(Denied):
            await codex.get("made.key")
        assert (await claude.put("made.key", "first value", purpose="provisioned")).version == "1"
        with pytest.raises(Conflict):
            await claude.put("made.key", "second value")
        await claude.generate("made.other", "hex:32")

        async def can_read() -> bool:
            try:
                return (await codex.get("made.key")).reveal() == "first value"
            except Denied:  # remembered for a moment by the worker that did not write
                return False

        await until(can_read)
        assert len((await codex.get("made.other")).reveal()) == 64
    desk.check_audit()
    assert sorted(r.outcome or "" for r in desk.records("access") if r.action == "put") == ["granted", "refused"]


async def test_whoever_holds_an_older_value_is_told_by_every_worker(desk: Home) -> None:
    """Both workers had it in their caches; afterwards neither serves it."""
    vault = FakeVault()
    async with (
        desk.working(vault),
        desk.working(vault, name="worker-2"),
        desk.client() as claude,
        desk.client("codex") as codex,
    ):
        held = [await codex.get("openai.api_key") for _ in range(20)]
        await claude.put("openai.api_key", "newer value", replaces="7")
        await until(lambda: all(secret.rotated for secret in held))

        async def is_new() -> bool:
            return all([(await codex.get("openai.api_key")).reveal() == "newer value" for _ in range(20)])

        await until(is_new)


async def test_a_vault_that_hangs_in_a_write_holds_up_nobody(desk: Home) -> None:
    """Cached values are served while a write waits for its vault."""
    vault = FakeVault()
    async with desk.working(vault), desk.client() as claude, desk.client("codex") as codex:
        await codex.get("openai.api_key")
        vault.gate = asyncio.Event()
        writing = asyncio.ensure_future(claude.put("made.key", "value"))
        await until(lambda: vault.writes)
        for _ in range(50):
            await codex.get("openai.api_key")
        assert not writing.done()
        vault.gate.set()
        assert (await writing).version == "1"


async def test_an_operators_write_reaches_workers_that_run(desk: Home) -> None:
    """`secret-broker put` needs no worker, and every worker hears of it by the broker's own file."""
    vault = FakeVault()
    with_vault = ["--home", str(desk.settings.home)]
    assert CliRunner().invoke(main, [*with_vault, "vault", "create"]).exit_code == 0
    async with desk.working(vault), desk.client("codex") as codex:
        held = await codex.get("openai.api_key")
        put = await asyncio.to_thread(
            CliRunner().invoke, main, [*with_vault, "put", "openai.api_key"], "from the operator"
        )
        assert put.exit_code == 0, put.output
        await until(lambda: held.rotated)


async def test_a_worker_that_is_killed_while_it_writes_writes_nothing_twice(
    processes: Processes, embedded_home: Home
) -> None:
    """The other worker finishes what it left: every write ends granted, with its own value, at version 1."""
    embedded_home.write(**FILES)
    home = ["--home", str(embedded_home.settings.home)]
    assert CliRunner().invoke(main, [*home, "vault", "create"]).exit_code == 0
    async with running_server(embedded_home):
        first = await processes.start_worker("worker-1")
        await processes.start_worker("worker-2")
        done: dict[str, str | None] = {}

        async def write(number: int) -> None:
            async with embedded_home.client() as claude:
                for part in range(6):
                    name = f"made.key-{number}-{part}"
                    done[name] = (await claude.put(name, f"value of {name}", timeout=60)).version

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        await until(lambda: len(done) > 8)
        first.send_signal(signal.SIGKILL)
        await asyncio.gather(*writers)
    assert set(done.values()) == {"1"}
    settings = embedded_home.settings
    vault = LocalVault(settings.vault_file, VaultKeys(lambda: load_seed(settings.keys_dir / "vault.key"), lambda: None))
    stored = vault.read([f"agents.{name}" for name in done])
    assert {name: stored[f"agents.{name}"].value.decode() for name in done} == {
        name: f"value of {name}" for name in done
    }
    assert {entry.version for entry in stored.values()} == {1}
    embedded_home.check_audit()
    began = {r.request_id for r in embedded_home.records("write_started")}
    assert {r.request_id for r in embedded_home.records("access") if r.action == "put"} <= began
