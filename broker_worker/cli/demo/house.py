"""The demo's own installation: a temporary home, made as `init` makes it and run as `secret-broker up` runs it."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.asyncio import Redis

from broker_worker.cli.init import create_installation
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import QUEUE, VAULT, load_seed
from broker_worker.private_files import write_private
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.queue.acl import broker_url, operator_url
from broker_worker.queue.embedded import MAX_SOCKET_PATH
from broker_worker.settings import Settings

WORKERS = ("worker-1", "worker-2")
POLICY = """\
agents:
  claude:
    allow:
      - openai.api_key
      - anthropic.api_key
  codex:
    allow:
      - github.read_token
      - openai.api_key
  grok:
    allow:
      - openai.api_key
  random-script:
    allow: []

default: deny
"""
"""Who may have what, as written into policy.yaml."""
GUARDED = "prod.deploy_key"
GUARDED_LINES = f"""\
      - secret: {GUARDED}
        approval: {{approvers: [ops], grant: once, ttl: 10m}}
"""
"""What the operator writes below codex while everything runs: a name that people must allow, each use anew."""
CREATED = "made.webhook_key"
"""What codex provisions and stores while everything runs."""
ROTATED = "anthropic.api_key"
"""What the operator rotates while claude holds it."""
CREATED_LINES = f"""\
      - {{secret: {CREATED}, actions: [write]}}
"""
"""What the operator writes below codex for that."""
PLACE_LINES = """
create_in:
  - {pattern: made.*, ref: "local://agents.{name}"}
"""
USED = "search.api_key"
"""What claude uses through the proxy, and never has."""
USED_LINES = f"""\
      - {{secret: {USED}, deliver: [proxy]}}
"""
"""What the operator writes below claude for that."""
PROXY_LINES = """\
  egress:
    allow: []
    acts_for: {agents: [claude], deliver: [proxy]}
"""
"""What the operator writes for the proxy, which is a run itself."""
CANARY = "DEMOCANARYDEMO"
"""Stands in every value of the demo and nowhere else, so that one that escapes is found."""
_PREFIXES = {
    "openai.api_key": "sk-proj-",
    "anthropic.api_key": "sk-ant-api03-",
    "github.read_token": "github_pat_",
    GUARDED: "dpl_live_",
    USED: "srch_",
}
_START_SECONDS = 30.0
_STOP_SECONDS = 32.0
_COMMAND_SECONDS = 60.0
_POLL_SECONDS = 0.02
_USUAL_PORT = Dashboard().port
_LONGEST_FOLDER = MAX_SOCKET_PATH - len("/sb-demo-12345678/run/valkey.sock")
_OURS = ("SECRET_BROKER", "REDIS_URL", "OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN")

T = TypeVar("T")


async def until(look: Callable[[], T], seconds: float) -> T:
    """Look again and again until something is found, or the time is over; returns what was found last."""
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:  # noqa: ASYNC110  # what changes is on disk or the queue
        await asyncio.sleep(_POLL_SECONDS)
    return found


class House:
    """An installation of its own.

    Args:
        home: its folder, empty.
    """

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, redis_url=None)
        self.values: dict[str, bytes] = {
            name: f"{prefix}{CANARY}{secrets.token_urlsafe(24)}".encode() for name, prefix in _PREFIXES.items()
        }
        self.log = home / "up.log"
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"House({str(self.settings.home)!r})"

    def furnish(self) -> None:
        """Make keys, configuration and vault, write the policy, and put made-up values into the vault.

        Raises:
            BrokerError: if that cannot be done.
        """
        now = time.time_ns() // 1_000_000
        create_installation(self.settings, "local", now)
        write_private(self.settings.config_dir / "policy.yaml", POLICY.encode())
        self._append("broker.yaml", f"\ndashboard:\n  port: {_free_port()}\n")
        for name, value in self.values.items():
            self._vault().set(name, value, now)

    def guard(self) -> None:
        """Give the guarded secret a name, and let codex have it when people allow it."""
        self._append("secrets.yaml", f'  {GUARDED}: "local://{GUARDED}"\n')
        agent, own, others = POLICY.partition("      - github.read_token\n      - openai.api_key\n")
        write_private(self.settings.config_dir / "policy.yaml", (agent + own + GUARDED_LINES + others).encode())

    def let_write(self) -> None:
        """Let codex create a name that claude may read, and say how claude's own key is rotated."""
        secrets_file, policy_file = (self.settings.config_dir / name for name in ("secrets.yaml", "policy.yaml"))
        before, entry, after = secrets_file.read_text().partition(f'  {ROTATED}: "local://{ROTATED}"\n')
        probe = json.dumps([sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()) != 40)"])
        rotation = f"{{recipe: 'alnum:40', probe: {{command: {probe}}}}}"
        entry = f'  {ROTATED}: {{ref: "local://{ROTATED}", rotation: {rotation}}}\n'
        write_private(secrets_file, (before + entry + after + PLACE_LINES).encode())
        policy = policy_file.read_text().replace(f"      - {ROTATED}\n", f"      - {ROTATED}\n      - {CREATED}\n", 1)
        agent, own, others = policy.partition("      - github.read_token\n      - openai.api_key\n")
        write_private(policy_file, (agent + own + CREATED_LINES + others).encode())

    def let_use(self, upstream: str) -> int:
        """Let claude use a key through the proxy, and say for which calls; returns the proxy's port."""
        secrets_file = self.settings.config_dir / "secrets.yaml"
        names, rest = secrets_file.read_text().split(PLACE_LINES, 1)
        write_private(secrets_file, f'{names}  {USED}: "local://{USED}"\n{PLACE_LINES}{rest}'.encode())
        policy_file = self.settings.config_dir / "policy.yaml"
        before, own, others = policy_file.read_text().partition("  claude:\n    allow:\n")
        write_private(policy_file, (before + PROXY_LINES + own + USED_LINES + others).encode())
        port = _free_port(0)
        route = {
            "upstream": upstream,
            "secret": USED,
            "send": {"header": "Authorization", "value": "Bearer {secret}"},
            "allow": [{"method": "GET", "path": "/v1/search"}],
            "allow_private": ["127.0.0.1/32"],
        }
        text = json.dumps({"egress": {"port": port, "routes": {"search": route}}}, indent=1)
        write_private(self.settings.config_dir / "egress.yaml", text.encode())
        return port

    def learn(self, name: str, place: str) -> None:
        """Look into the vault for what a name stands for by now."""
        self.values[name] = self._vault().read([place])[place].value

    def _vault(self) -> LocalVault:
        key_file = self.settings.keys_dir / VAULT
        return LocalVault(self.settings.vault_file, VaultKeys(lambda: load_seed(key_file), lambda: None))

    def _append(self, file: str, lines: str) -> None:
        path = self.settings.config_dir / file
        write_private(path, path.read_bytes() + lines.encode())

    def environment(self) -> dict[str, str]:
        """This process's environment without what may point to another installation or a real vault."""
        return {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}

    def command(self, *arguments: str) -> list[str]:
        """A command line of `secret-broker` on this home."""
        return [sys.executable, "-m", "broker_worker.cli", "--home", str(self.settings.home), *arguments]

    async def run(self, *arguments: str) -> str:
        """Run a command of `secret-broker` on this home to its end, as a person would.

        Args:
            arguments: the command.

        Returns:
            What it printed.

        Raises:
            SetupError: if it failed, or takes too long.
        """
        what = f"`secret-broker {' '.join(arguments[:2])}`"
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                out, errors = await process.communicate()
        except TimeoutError:
            raise SetupError(f"{what} did not end within {_COMMAND_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())
        if process.returncode != 0:
            raise SetupError(f"{what} failed: {' '.join(errors.decode(errors='replace').split())}")
        return out.decode()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run `secret-broker up` with two workers; all its processes and the queue are gone at the end.

        Raises:
            SetupError: if it does not start.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command("--log-json", "up", "--workers", str(len(WORKERS)), "--until-stdin-ends"),
                stdin=asyncio.subprocess.PIPE,  # ends with us, however we end
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,  # Ctrl-C is for us alone; we end them in order
            )
        try:
            await self._ready(self._process)
            yield
        finally:
            await asyncio.shield(self._stop(self._process))

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        def started() -> bool:
            return process.returncode is not None or all(self.starts_of(name) for name in WORKERS)

        if not await until(started, _START_SECONDS) or process.returncode is not None:
            raise SetupError(
                f"the broker did not start: {self._last_words()}", hint="`secret-broker doctor` on a home of your own"
            )

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.to_thread(self._end_server)

    def _end_server(self) -> None:
        """End the queue's server if `up` could not do so itself."""
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self._url(operator_url), protocol=2) as client:
            client.shutdown(nosave=True)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """What `up` and its workers logged."""
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event

    def starts_of(self, worker: str) -> int:
        """How often a worker became ready so far."""
        return sum(event.get("event") == "worker_ready" and event.get("worker") == worker for event in self.events())

    def ended_workers(self) -> int:
        """How often a worker ended without being told to."""
        return sum(event.get("event") == "worker_ended" for event in self.events())

    def errors(self) -> list[str]:
        """What `up` and its workers logged as errors."""
        return [
            " ".join(f"{key}={text}" for key, text in event.items() if key not in ("level", "timestamp"))
            for event in self.events()
            if event.get("level") == "error"
        ]

    async def has_dashboard(self) -> bool:
        """Whether the dashboard that `up` starts is ready, once that is clear."""

        def clear() -> bool:
            return any(event.get("event") in ("dashboard_ready", "dashboard_not_started") for event in self.events())

        await until(clear, _START_SECONDS)
        return any(event.get("event") == "dashboard_ready" for event in self.events())

    def has_proxy(self) -> bool:
        """Whether the egress proxy that `up` starts is ready."""
        return any(event.get("event") == "egress_ready" for event in self.events())

    def pid_of(self, worker: str) -> int:
        """The process id of a worker.

        Raises:
            SetupError: if `up` did not log it.
        """
        pids = [
            event["pid"]
            for event in self.events()
            if event.get("event") == "worker_launched" and event.get("worker") == worker
        ]
        if not pids:
            raise SetupError(f"the process id of {worker} is not known")
        return int(pids[-1])

    def queue(self) -> "Redis":
        """A client of the queue with all rights that workers have; it holds no key that opens anything."""
        return Redis.from_url(self._url(broker_url), protocol=2, socket_timeout=10.0)

    @property
    def queue_key(self) -> bytes:
        """What the passwords of the queue's users come from."""
        return load_seed(self.settings.keys_dir / QUEUE)

    def queue_files(self) -> list[Path]:
        """The files that the queue's server wrote, its append-only log among them."""
        return sorted(path for path in (self.settings.run_dir / "valkey").rglob("*") if path.is_file())

    def _url(self, of: Callable[[str, bytes], str]) -> str:
        return of(self.settings.queue_address, self.queue_key)

    def _last_words(self) -> str:
        lines = self.errors() or self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def _free_port(usual: int = _USUAL_PORT) -> int:
    """A usual port (0 for none), or another one that nobody uses now."""
    for wanted in (usual, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", wanted)) as listening:
            port: int = listening.getsockname()[1]
            return port
    raise SetupError("no port of 127.0.0.1 is free", hint="the dashboard and the proxy need one each")


@contextlib.contextmanager
def temporary_home(*, keep: bool) -> Iterator[Path]:
    """A folder of our own, removed at the end unless it is to be kept."""
    usual = tempfile.gettempdir()
    home = Path(tempfile.mkdtemp(prefix="sb-demo-", dir=usual if len(usual) <= _LONGEST_FOLDER else "/tmp"))  # noqa: S108  # mkdtemp makes it private
    try:
        yield home
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
