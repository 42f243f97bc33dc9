"""A whole installation for tests: its files and keys, a real server, workers in this process or in their own."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any
from unittest.mock import patch

import pytest
from desk_workbench import LONG, Run, ShiftedClock, until, write_files
from fake_vault import FakeVault
from redis import Redis
from redis.exceptions import RedisError
from vault_workbench import hardened

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditEvent, decode_line
from agent_sdk.wire.messages import Notice, Reply
from broker_worker.app import compose as compose_module
from broker_worker.app.compose import Process, compose
from broker_worker.app.reloading import Reloader
from broker_worker.app.vaults import provider_names
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.verify import verify_folder
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import ISSUER, QUEUE, create_broker_keys, load_broker_keys, load_seed
from broker_worker.ports import Provider
from broker_worker.queue.acl import agent_url, broker_url, operator_url
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.queue.users import ensure_users
from broker_worker.settings import Settings

COMMAND = (sys.executable, "-m", "broker_worker.cli")


class Home:
    """One installation.

    Args:
        folder: where it lives; made here.
        redis_url: its queue; None for the embedded server.
        files: what the operator's files say (`write_files`).
    """

    def __init__(self, folder: Path, redis_url: str | None, **files: Any) -> None:
        self.settings = Settings(home=folder, redis_url=redis_url)
        self.clock = ShiftedClock()
        folder.mkdir(mode=0o700, exist_ok=True)
        create_broker_keys(self.settings.keys_dir, self.clock.now())
        self.issuer_seed = load_seed(self.settings.keys_dir / ISSUER)
        self.queue_key = load_seed(self.settings.keys_dir / QUEUE)
        self.write(**files)

    def write(self, **files: Any) -> None:
        """Write the operator's files anew."""
        files.setdefault("issuer_seed", self.issuer_seed)
        write_files(self.settings.config_dir, **files)

    @property
    def agents(self) -> list[str]:
        """The agents of the policy as it stands in the file."""
        return sorted(load_configuration(self.settings.config_dir).policy.agents)

    async def set_users(self) -> None:
        """Give every agent its user on the queue."""
        await ensure_users(self.settings.queue_address, self.queue_key, self.agents)

    def credential(self, agent: str = "claude", issuer_seed: bytes | None = None, **mint: Any) -> RunCredential:
        """A run's credential; `run_id`, `ttl`, `scope` and `task` as `RunIssuer.mint` takes them."""
        issuer = RunIssuer(issuer_seed or self.issuer_seed, "local", clock=self.clock.now)
        keys = load_broker_keys(self.settings.keys_dir)
        mint.setdefault("ttl", timedelta(hours=1))
        url = agent_url(self.settings.queue_address, self.queue_key, agent)
        return issuer.mint(agent, broker=keys.identity_public, intake=keys.intake[0].public, queue_url=url, **mint)

    def client(
        self, agent: str = "claude", *, on_notice: Callable[[Notice], None] | None = None, **mint: Any
    ) -> AsyncSecretBroker:
        """A client of a fresh run, with the agent's own rights on the queue."""
        credential = self.credential(agent, **mint)
        return AsyncSecretBroker(credential, timeout=LONG, on_notice=on_notice, clock=self.clock.now)

    def run(self, agent: str = "claude", **mint: Any) -> "HostileRun":
        """A fresh run that writes whatever it likes to its stream."""
        return HostileRun(self.credential(agent, **mint), self.clock.now)

    def redis(self) -> "Redis":
        """A connection with a worker's rights."""
        return Redis.from_url(broker_url(self.settings.queue_address, self.queue_key), protocol=2)

    def records(self, event: str | None = None) -> list[AuditEvent]:
        """The audit on disk, all workers' chains, without checkpoints."""
        lines = [
            line for file in list_files(self.settings.audit_dir) for line in file.path.read_bytes().split(b"\n") if line
        ]
        events = [decode_line(line) for line in lines if b'"event":"checkpoint"' not in line]
        return [each for each in events if event is None or each.event == event]

    def check_audit(self) -> None:
        """Every chain must verify without a problem."""
        identity = load_broker_keys(self.settings.keys_dir).identity_public
        report = verify_folder(self.settings.audit_dir, identity)
        assert report.problems == []
        assert report.lines > 0

    @asynccontextmanager
    async def working(
        self,
        vault: FakeVault | None = None,
        *,
        name: str = "worker-1",
        others: Mapping[str, Provider] | None = None,
        reloading: bool = False,
        publishing: bool = False,
    ) -> AsyncIterator[Process]:
        """A real worker on this loop; only its vaults are made up.

        Args:
            vault: serves `local://`.
            name: the worker's name.
            others: vaults of other schemes.
            reloading: whether it follows changes of the files.
            publishing: whether it copies the audit to its stream.
        """
        await self.set_users()
        with patch.object(compose_module, "SystemClock", lambda: self.clock):
            process = compose(self.settings, name)
        vaults: dict[str, Provider] = {"local": vault or FakeVault(), **(others or {})}
        process.providers = {scheme: hardened(each) for scheme, each in vaults.items()}
        process.fetches.replace(process.providers)
        process.writes.replace(process.providers)
        process.desk.settler.provider_of = provider_names(process.providers)
        worker = asyncio.create_task(process.worker.run())
        changed = asyncio.Event()
        beside = [asyncio.create_task(Reloader(process).run(changed))] if reloading else []
        beside += [asyncio.create_task(process.publisher.run())] if publishing else []
        try:
            await asyncio.wait(
                {worker, ready := asyncio.create_task(process.worker.ready.wait())},
                timeout=LONG,
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert ready.done(), worker
            await until(process.worker._control.pubsub_numpat)  # it hears bells
            yield process
            assert not worker.done(), "the worker ended"
        finally:
            process.worker.stop()
            for task in beside:
                task.cancel()
            await asyncio.gather(asyncio.wait_for(worker, LONG), *beside, return_exceptions=True)
            with contextlib.suppress(Exception):
                process.desk.close()
            process.sink.close()
            await process.publisher_client.aclose()
            await asyncio.to_thread(process.jobs.close)


class HostileRun(Run):
    """A run that seals correctly when it wants to, and writes to the queue with its agent's own rights."""

    def connect(self) -> "Redis":
        """A connection with the agent's rights."""
        return Redis.from_url(self.credential.queue_url, protocol=2)

    def write(self, redis: "Redis", *raws: bytes, entry_id: str = "*") -> None:
        """Write entries to the agent's stream and ring its bell, as a client does."""
        for raw in raws:
            redis.xadd(self.requests, {keynames.MESSAGE_FIELD: raw}, id=entry_id)
        redis.publish(keynames.doorbell(self.agent), b"1")

    async def answers(self, redis: "Redis") -> list[Reply]:
        """Everything that was answered to this run so far."""
        found: Any = await asyncio.to_thread(redis.xread, {self.channel.replies: "0"})
        return [self.open(fields[b"m"]) for _, entries in found for _, fields in entries]


@pytest.fixture
def home(tmp_path: Path, valkey_url: str) -> Home:
    """An installation on the server that the tests of this process share."""
    return Home(tmp_path / "home", valkey_url)


@pytest.fixture
def embedded_home() -> Iterator[Home]:
    """An installation with a server of its own, in a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="sb-home-"))
    yield Home(folder / "h", None)
    shutil.rmtree(folder)


def server_of(home: Home) -> EmbeddedServer:
    """The embedded server of an installation."""
    return EmbeddedServer(home.settings.run_dir, home.queue_key, home.agents)


@asynccontextmanager
async def running_server(home: Home) -> AsyncIterator[EmbeddedServer]:
    """The embedded server of an installation, for the length of a block."""
    server = server_of(home)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


class Processes:
    """Commands of `secret-broker` as processes of their own, on one installation; all are ended in the end.

    Args:
        home: the installation.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._started: list[subprocess.Popen[bytes]] = []
        self.environ = {**os.environ, "OPENAI": "value of openai", "GITHUB": "value of github"}
        self.environ.pop("REDIS_URL", None)
        if home.settings.redis_url:
            self.environ["REDIS_URL"] = home.settings.redis_url

    @property
    def log(self) -> str:
        """Everything that any of them wrote."""
        return "".join(path.read_text() for path in sorted(self._home.settings.home.glob("*.out")))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `secret-broker ARGUMENTS` at the most talkative log level."""
        command = [*COMMAND, "--home", str(self._home.settings.home), "--log-level", "debug", *arguments]
        output = self._home.settings.home / f"{len(self._started):02d}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        return process

    async def start_worker(self, name: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it serves."""
        ready = self.log.count("worker_ready")
        process = self.start("worker", "--name", name)
        await until(lambda: self.log.count("worker_ready") > ready or process.poll() is not None, 60)
        assert process.poll() is None, self.log
        return process

    async def ended(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait for the end of a process, and return its exit code."""
        return await asyncio.to_thread(process.wait, 60)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()
            process.wait()
        operator = operator_url(self._home.settings.queue_address, self._home.queue_key)
        with contextlib.suppress(RedisError), Redis.from_url(operator, protocol=2, retry=None) as redis:
            redis.shutdown(nosave=True)  # the server of an `up` that was killed goes on by itself


def policy_of(agents: str) -> str:
    """A policy of these agents, whose limits nobody meets."""
    limits = "".join(f"  {of}: {{rate: 100000/s, burst: 100000}}\n" for of in ("agent", "run", "secret"))
    return f"limits:\n{limits}agents:\n{indent(dedent(agents).strip(), '  ')}\n"


ENV_FILES = {
    "broker": "provider: {type: env}",
    "registry": 'secrets: {openai.api_key: "env://OPENAI", github.read_token: "env://GITHUB"}',
    "policy": policy_of("""
        claude: {allow: [openai.api_key]}
        codex: {allow: [openai.api_key, github.read_token]}
    """),
}
"""Files of an installation whose values come from the environment of `Processes`."""


@pytest.fixture
def processes(embedded_home: Home) -> Iterator[Processes]:
    """Commands on an installation with a server of its own."""
    embedded_home.write(**ENV_FILES)
    made = Processes(embedded_home)
    yield made
    made.close()
