"""Workers as processes: killed, drained, supervised; no request is lost and nothing is released without a record."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from broker_home import ENV_FILES, Home, Processes, running_server
from desk_workbench import until
from redis import Redis
from redis.exceptions import RedisError

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.wire import keynames
from agent_sdk.wire.messages import Request
from broker_worker.app import supervisor as supervisor_module
from broker_worker.app.serve import _on_signals
from broker_worker.app.supervisor import Supervisor
from broker_worker.core.errors import QueueError
from broker_worker.queue.acl import operator_url
from broker_worker.queue.embedded import EmbeddedServer

ALONE = ("--no-ledger", "--no-dashboard")
"""`up` without the parts that these tests are not about."""
CLAUDE = keynames.requests("claude")


@dataclass
class Load:
    """Clients that ask without a pause."""

    asked: set[str] = field(default_factory=set)
    granted: int = 0
    errors: list[BaseException] = field(default_factory=list)
    stopping: bool = False

    async def ask(self, client: AsyncSecretBroker) -> None:
        """Ask again and again until told to stop."""
        while not self.stopping:
            try:
                assert (await client.get("openai.api_key", purpose="load", timeout=60)).reveal() == "value of openai"
            except Exception as error:  # noqa: BLE001  # whatever it is, it is what the test looks for
                self.errors.append(error)
            else:
                self.granted += 1


@asynccontextmanager
async def under_load(home: Home) -> AsyncIterator[Load]:
    """Four runs of two agents with eight requests each in flight."""
    load = Load()
    clients = [home.client(agent) for agent in ("claude", "codex", "claude", "codex")]
    for client in clients:
        await client.__aenter__()
        seal = client._exchange._channel.seal

        def noting(request: Request, seal=seal) -> bytes:  # type: ignore[no-untyped-def]  # bound for this client
            load.asked.add(request.request_id.hex())
            envelope: bytes = seal(request)
            return envelope

        client._exchange._channel.seal = noting  # type: ignore[method-assign]  # notes what is sealed
    tasks = [asyncio.create_task(load.ask(client)) for client in clients for _ in range(8)]
    try:
        await until(lambda: load.granted > 200)
        yield load
    finally:
        load.stopping = True
        await asyncio.gather(*tasks)
        for client in clients:
            await client.close()


def assert_nothing_was_lost(home: Home, load: Load) -> None:
    """Every call ended granted, and for every one there is a record on disk."""
    assert load.errors == []
    assert load.granted == len(load.asked)
    recorded = {r.request_id for r in home.records("access") if r.outcome == "granted"}
    assert load.asked <= recorded
    home.check_audit()
    with home.redis() as redis:
        for agent in ("claude", "codex"):
            assert redis.xlen(keynames.requests(agent)) == 0
            assert redis.xpending(keynames.requests(agent), keynames.GROUP)["pending"] == 0


@pytest.fixture
async def server(embedded_home: Home) -> AsyncIterator[EmbeddedServer]:
    """The installation's server; its agents have users."""
    async with running_server(embedded_home) as server:
        yield server


async def test_a_worker_that_is_killed_under_load_loses_no_request(
    processes: Processes, embedded_home: Home, server: EmbeddedServer
) -> None:
    """The other one claims what it left; every value that anybody got is on record; then it comes back."""
    first = await processes.start_worker("worker-1")
    await processes.start_worker("worker-2")
    async with under_load(embedded_home) as load:
        first.send_signal(signal.SIGKILL)
        await processes.ended(first)
        with embedded_home.redis() as redis:
            stuck = redis.xpending(CLAUDE, keynames.GROUP)["pending"]
        before = load.granted
        await until(lambda: load.granted > before + 200 + stuck)
        await processes.start_worker("worker-1")
        before = load.granted
        await until(lambda: load.granted > before + 200)
    assert_nothing_was_lost(embedded_home, load)
    assert [record.worker for record in embedded_home.records("worker_started")].count("worker-1") == 2
    assert {record.worker for record in embedded_home.records("access")} == {"worker-1", "worker-2"}


async def test_a_worker_that_is_told_to_stop_under_load_drains(
    processes: Processes, embedded_home: Home, server: EmbeddedServer
) -> None:
    """It finishes what it has, records that it stopped, leaves no name behind, and ends well."""
    first = await processes.start_worker("worker-1")
    await processes.start_worker("worker-2")
    async with under_load(embedded_home) as load:
        first.terminate()
        assert await processes.ended(first) == 0
        with embedded_home.redis() as redis:
            consumers = [each["name"].decode() for each in redis.xinfo_consumers(CLAUDE, keynames.GROUP)]
        assert [name.rpartition("-")[0] for name in consumers] == ["worker-2"]
        before = load.granted
        await until(lambda: load.granted > before + 200)
    assert_nothing_was_lost(embedded_home, load)
    assert [record.worker for record in embedded_home.records("worker_stopped")] == ["worker-1"]


async def test_the_only_worker_may_be_replaced_under_load(
    processes: Processes, embedded_home: Home, server: EmbeddedServer
) -> None:
    """What is asked while none runs waits on the queue for the next one."""
    first = await processes.start_worker("worker-1")
    async with under_load(embedded_home) as load:
        first.terminate()
        assert await processes.ended(first) == 0
        before = load.granted
        await processes.start_worker("worker-1")
        await until(lambda: load.granted > before + 100)
    assert_nothing_was_lost(embedded_home, load)


def children_of(pid: int) -> dict[int, str]:
    """The processes that a process started, with their command lines."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and int(row[1]) == pid}


def users_of(home: Home) -> list[str]:
    """The users of an installation's server; none if it is away."""
    with (
        contextlib.suppress(RedisError),
        Redis.from_url(operator_url(home.settings.queue_address, home.queue_key), protocol=2) as redis,
    ):
        return [str(user) for user in redis.acl_users()]
    return []


def worker_of(up: "subprocess.Popen[bytes]", name: str) -> int | None:
    """The process id of a worker that `up` keeps."""
    return next((pid for pid, command in children_of(up.pid).items() if f"--name {name} " in f"{command} "), None)


async def test_up_keeps_its_workers_and_its_home_to_itself(processes: Processes, embedded_home: Home) -> None:
    """A killed worker comes back, a second `up` is refused, and a stop ends everything in order."""
    up = processes.start("up", *ALONE, "--workers", "2")
    await until(lambda: processes.log.count("worker_ready") == 2 or up.poll() is not None, 60)
    second = processes.start("up", *ALONE)
    async with embedded_home.client() as claude:
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
        victim = worker_of(up, "worker-1")
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        await until(lambda: worker_of(up, "worker-1") not in (None, victim), 60)
        assert (await claude.get("openai.api_key", timeout=60)).reveal() == "value of openai"
        await until(lambda: len(embedded_home.records("worker_started")) == 3, 60)
    assert await processes.ended(second) == 7
    up.terminate()
    assert await processes.ended(up) == 0
    stopped = [record.worker for record in embedded_home.records("worker_stopped")]
    assert sorted(stopped) == ["worker-1", "worker-2"]
    assert not embedded_home.settings.socket_path.exists()
    assert "already" in processes.log
    embedded_home.check_audit()


async def test_up_gives_an_added_agent_its_user_and_starts_an_ended_server_again(
    processes: Processes, embedded_home: Home
) -> None:
    """A new agent is served without a restart, also by the server that takes the place of one that was killed."""
    up = processes.start("up", *ALONE)
    await until(lambda: "worker_ready" in processes.log or up.poll() is not None, 60)
    embedded_home.write(**{**ENV_FILES, "policy": "agents: {grok: {allow: [openai.api_key]}}"})
    await until(lambda: "agent-grok" in users_of(embedded_home) and embedded_home.records("config_loaded"), 60)
    async with embedded_home.client("grok") as grok:
        assert (await grok.get("openai.api_key", timeout=60)).reveal() == "value of openai"
        server = next(pid for pid, command in children_of(up.pid).items() if "valkey-server" in command)
        os.kill(server, signal.SIGKILL)
        assert (await grok.get("openai.api_key", timeout=60)).reveal() == "value of openai"
    assert "queue_ended" in processes.log
    assert "agent-claude" not in users_of(embedded_home)
    up.terminate()
    assert await processes.ended(up) == 0


async def test_up_does_not_start_what_no_worker_could_use(processes: Processes, embedded_home: Home) -> None:
    """A vault's section with a misspelt option ends `up` at once, with its line and exit code 3."""
    embedded_home.write(**{**ENV_FILES, "broker": "provider:\n  type: env\n  pathh: x\n"})
    assert await processes.ended(processes.start("up", *ALONE)) == 3
    assert "broker.yaml:" in processes.log
    assert "worker_launched" not in processes.log


async def test_users_that_could_not_be_set_are_set_later(embedded_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is away when the policy changes learns of its new users when it is back."""
    asked: list[list[str]] = []

    async def one_change(folders: Sequence[Path], changed: asyncio.Event) -> None:
        changed.set()

    async def ensure_users(address: str, queue_key: bytes, agents: Mapping[str, object]) -> None:
        asked.append(sorted(agents))
        if len(asked) == 1:
            raise QueueError("away")

    monkeypatch.setattr(supervisor_module, "ensure_users", ensure_users)
    monkeypatch.setattr(supervisor_module, "watch", one_change)
    monkeypatch.setattr(supervisor_module, "_USERS_AGAIN_SECONDS", 0.01)
    embedded_home.write(policy="agents: {grok: {allow: []}}")
    following = asyncio.create_task(Supervisor(embedded_home.settings, 1)._follow_policy())
    await until(lambda: len(asked) == 2)
    following.cancel()
    assert asked == [["grok"], ["grok"]]


async def test_workers_do_not_outlive_an_up_that_is_killed(processes: Processes, embedded_home: Home) -> None:
    """They drain by themselves, so that the next `up` can have their names; it also takes over the server."""
    up = processes.start("up", *ALONE)
    await until(lambda: "worker_ready" in processes.log or up.poll() is not None, 60)
    up.kill()
    await processes.ended(up)
    await until(lambda: embedded_home.records("worker_stopped"), 60)
    again = processes.start("up", *ALONE)
    await until(lambda: processes.log.count("worker_ready") == 2 or again.poll() is not None, 60)
    async with embedded_home.client() as claude:
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    again.terminate()
    assert await processes.ended(again) == 0


async def test_sighup_asks_for_a_reload() -> None:
    """Without a change of a file, for what file systems do not tell."""
    stopped, changed = asyncio.Event(), asyncio.Event()
    _on_signals(stopped.set, changed)
    loop = asyncio.get_running_loop()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(changed.wait(), 5)
        assert not stopped.is_set()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
