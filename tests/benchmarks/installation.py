"""A whole installation for the benchmark: everything on, every answer a cache hit, limits too wide to be reached."""

import base64
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.wire import keynames
from agent_sdk.wire.messages import Request, Resolve, encode_request
from agent_sdk.wire.sealing import (
    Kind,
    Sealer,
    derive_key,
    key_id,
    run_exchange_public,
    run_exchange_secret,
    run_public_key,
)
from broker_worker.files.keys import ISSUER, QUEUE, create_broker_keys, create_seed, load_broker_keys, load_seed
from broker_worker.queue.acl import agent_url, broker_url
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings

REQUEST_LIFE_MS = 60_000
NULL_AGENTS = [f"null-{number}" for number in range(4)]


@dataclass
class Run:
    """One run: its credential, and what it seals requests with."""

    credential: RunCredential
    sealer: Sealer
    request_stream: str
    reply_stream: str


class Installation:
    """A home with keys, files and a real server; worker processes are started on it.

    Args:
        agents: how many agents the policy knows.
        secrets_known: how many secrets the registry knows.
    """

    def __init__(self, agents: int, secrets_known: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sb-bench-"))
        self.settings = Settings.load(self.home)
        self.agents = [f"agent-{number}" for number in range(agents)]
        keys_dir = self.settings.keys_dir
        create_broker_keys(keys_dir, int(time.time() * 1000))
        for name in (ISSUER, QUEUE):
            if not (keys_dir / name).exists():
                create_seed(keys_dir / name)
        self._issuer = RunIssuer(load_seed(keys_dir / ISSUER), "bench")
        self._keys = load_broker_keys(keys_dir)
        self.queue_key = load_seed(keys_dir / QUEUE)
        self.server = EmbeddedServer(self.settings.run_dir, self.queue_key, self.agents)
        self.url = broker_url(self.settings.queue_address, self.queue_key)
        self._write_files(secrets_known)
        self._processes: list[subprocess.Popen[bytes]] = []

    def _write_files(self, secrets_known: int) -> None:
        config = self.settings.config_dir
        config.mkdir(parents=True, exist_ok=True)
        public = base64.urlsafe_b64encode(run_public_key(load_seed(self.settings.keys_dir / ISSUER)))
        (config / "broker.yaml").write_text("provider:\n  type: env\ncache:\n  max_ttl_seconds: 3600\n")
        (config / "secrets.yaml").write_text(
            "secrets:\n"
            + "".join(
                f"  bench.key-{n}: {{ref: 'env://BENCH_SECRET', ttl_seconds: 3600}}\n" for n in range(secrets_known)
            )
        )
        (config / "issuers.yaml").write_text(
            f"issuers:\n  - name: bench\n    public_key: {public.decode().rstrip('=')}\n"
            "    all_agents: true\n    max_lifetime: 8h\n"
        )
        wide = "{rate: 1000000/s, burst: 1000000}"
        (config / "policy.yaml").write_text(
            f"limits:\n  agent: {wide}\n  run: {wide}\n  secret: {wide}\n"
            "agents:\n" + "".join(f"  {agent}: {{allow: [bench.key-0]}}\n" for agent in self.agents)
        )

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker process on the embedded server."""
        environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
        environment["BENCH_SECRET"] = secrets.token_hex(20)
        return self._start(
            "-m", "broker_worker.cli", "--log-level", "error", "--home", str(self.home), "worker", env=environment
        )

    def start_null_broker(self, kind: str) -> subprocess.Popen[bytes]:
        """Start a null broker on the same server."""
        return self._start(str(Path(__file__).with_name("null_broker.py")), kind, self.url, *NULL_AGENTS)

    def _start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, *arguments], env=env)
        self._processes.append(process)
        return process

    def new_run(self, agent: str) -> Run:
        """Mint a run of an agent."""
        intake = self._keys.intake[0].public
        credential = self._issuer.mint(
            agent,
            broker=self._keys.identity_public,
            intake=intake,
            queue_url=agent_url(self.settings.queue_address, self.queue_key, agent),
            ttl=timedelta(hours=8),
        )
        public = run_public_key(credential.seed)
        key = derive_key(
            Kind.REQUEST, run_exchange_secret(credential.seed), run_exchange_public(public), intake, peer=intake
        )
        stream = keynames.requests(agent)
        return Run(
            credential,
            Sealer(Kind.REQUEST, key, key_id(intake), public, stream),
            stream,
            keynames.replies(agent, keynames.fingerprint(public)),
        )

    def sealed(self, run: Run) -> tuple[str, bytes]:
        """A fresh request of a run, ready to be sent, and where to."""
        now = int(time.time() * 1000)
        body = Resolve(("bench.key-0",), purpose="benchmark")
        request = Request(secrets.token_bytes(16), now, now + REQUEST_LIFE_MS, run.credential.token, body)
        return run.request_stream, run.sealer.seal(encode_request(request), secrets.token_bytes(24))

    def close(self) -> None:
        """End every process and remove the home."""
        for process in self._processes:
            process.kill()
            process.wait()
        self.server.stop()
        shutil.rmtree(self.home, ignore_errors=True)
