"""Job processes as `up` starts them: what they reach, what they never load, and how they end."""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from broker_home import Home
from desk_workbench import until
from jobs_workbench import NOTICE, Bench, signals_kept
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_sdk.wire import keynames
from broker_worker.core.errors import FailureKind, ProviderError, QueueError
from broker_worker.files.keys import JOBS, ensure_seed
from broker_worker.jobs.payloads import UPSTREAM
from broker_worker.jobs.queue import RqJobQueue
from broker_worker.jobs.reports import decode_report, report_key
from broker_worker.jobs.revoking import Revoking
from broker_worker.jobs.sealed_job import SealedQueue
from broker_worker.jobs.serving import JobProcess
from broker_worker.ports import DynamicProvider
from broker_worker.queue.acl import JOBS as JOBS_USER
from broker_worker.queue.acl import broker_url, user_url

WATCHED = """
import atexit, json, os, sys
home, opened = sys.argv[1], set()

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if path.startswith(home):
            opened.add(path[len(home) + 1:])

def tell():
    with open(sys.argv[2], "w") as file:
        json.dump({"opened": sorted(opened), "modules": sorted(sys.modules)}, file)

atexit.register(tell)
sys.addaudithook(watch)
from broker_worker.cli import main
main(["--home", home, "jobs", "--until-stdin-ends"])
"""


async def test_the_process_that_notifies_people_has_no_access_to_the_vault(home: Home, tmp_path: Path) -> None:
    """It opens keys/jobs.key and broker.yaml, loads no provider and nothing that serves secrets, and still delivers."""
    await home.set_users()
    jobs_key = ensure_seed(home.settings.keys_dir / JOBS)
    done = tmp_path / "done"
    target = {"name": "bell", "kind": "command", "command": ["/usr/bin/touch", str(done)]}
    with (home.settings.config_dir / "broker.yaml").open("a") as file:
        file.write(f"\nnotifications: {json.dumps([target])}\n")
    url = user_url(home.settings.queue_address, home.queue_key, JOBS_USER)
    told = tmp_path / "told.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WATCHED, str(home.settings.home), str(told)),
        env={"REDIS_URL": url, "PATH": "/usr/bin:/bin"},
        stdin=asyncio.subprocess.PIPE,
    )
    jobs = RqJobQueue(broker_url(home.settings.queue_address, home.queue_key), jobs_key, home.clock.now)
    jobs.enqueue("notify_approval", NOTICE)
    assert process.stdin is not None
    try:
        with home.redis() as redis:
            await until(lambda: redis.xlen(keynames.REPORTS) or process.returncode is not None, 90)
            (entry,) = redis.xrange(keynames.REPORTS)
    finally:
        jobs.close()
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 40) == 0
    assert done.exists()
    record = decode_report(entry[1][b"m"], report_key(jobs_key)).record()
    assert (record.event, record.outcome, record.reason) == ("notified", "granted", "bell")
    seen = json.loads(told.read_text())
    assert seen["opened"] == ["config/broker.yaml", "keys/jobs.key"]
    closed = ("providers", "pipeline", "worker", "cache", "audit", "state", "app.compose", "app.upstream", "people")
    never = ("onepassword", *(f"broker_worker.{part}" for part in closed))
    assert [name for name in seen["modules"] if name.startswith(never)] == []
    assert "broker_worker.jobs.worker" in seen["modules"]


class Vault:
    """A vault that makes credentials, and takes them back when it feels like it."""

    name = "database"

    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.failures: list[ProviderError] = []

    async def get_many(self, refs: Sequence[str]) -> dict[str, Any]:
        """Nothing here asks for a value."""
        return {}

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Nothing here stores one."""
        return None

    async def health(self) -> Any:
        """Nothing here asks."""

    async def close(self) -> None:
        """Nothing is open."""

    async def revoke(self, upstream_lease: str) -> None:
        """Take a credential back, or fail as told."""
        await asyncio.sleep(0)
        self.revoked.append(upstream_lease)
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def bench(valkey_url: str) -> Iterator[Bench]:
    """The queue of upstream revocations."""
    made = Bench(valkey_url)
    made.queue = SealedQueue(UPSTREAM, made.redis)
    yield made
    made.redis.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that the process keeps for its providers."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def hand_over(bench: Bench, scheme: str = "db") -> None:
    """Hand over the revocation of one upstream lease, as a worker does."""
    jobs = RqJobQueue(bench.url, bytes(range(32)), bench.now)
    jobs.enqueue("revoke_upstream", {"scheme": scheme, "upstream_lease": "database/creds/7"})
    jobs.close()


def test_a_credential_is_taken_back_once_the_vault_can(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    """It is tried again for as long as it takes, also after a day; then nothing is left."""
    vault = Vault()
    assert isinstance(vault, DynamicProvider)
    vault.failures = [ProviderError(FailureKind.UNREACHABLE, "away") for _ in range(25)]
    functions = Revoking({"db": vault}, loop.run_until_complete).functions()
    hand_over(bench)
    for _ in range(26):
        bench.work(*functions.values())
        bench.shift += 3_600_000
    assert bench.shift > 24 * 3600 * 1000
    assert vault.revoked == ["database/creds/7"] * 26
    assert bench.left() == []


def test_a_vault_that_asks_to_wait_is_given_the_time(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    """A rate limit's `retry_after` counts."""
    vault = Vault()
    vault.failures = [ProviderError(FailureKind.RATE_LIMITED, "slow down", retry_after=60_000)]
    functions = Revoking({"db": vault}, loop.run_until_complete).functions()
    hand_over(bench)
    for bench.shift in (0, 30_000, 61_000):
        bench.work(*functions.values())
    assert len(vault.revoked) == 2
    assert bench.left() == []


def test_a_vault_that_is_not_configured_keeps_the_job(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    """Until the operator puts its section back; the payload names no other vault."""
    vault = Vault()
    hand_over(bench)
    bench.work(*Revoking({"other": vault}, loop.run_until_complete).functions().values())
    bench.shift = 3_000
    bench.work(*Revoking({"db": vault}, loop.run_until_complete).functions().values())
    assert vault.revoked == ["database/creds/7"]


def test_a_notification_cannot_be_done_by_the_process_with_the_vault(
    bench: Bench, loop: asyncio.AbstractEventLoop
) -> None:
    """Each process has its own functions; a job that was moved to the other's queue is refused."""
    moved = bench.seal("moved")
    bench.push("moved", {"data": moved})
    bench.add("named", queue=UPSTREAM)
    bench.work(*Revoking({"db": Vault()}, loop.run_until_complete).functions().values())
    assert bench.refused() == {"forged": 1, "unknown_function": 1}


def test_a_queue_that_is_away_or_refuses_is_said_plainly(valkey_url: str, tmp_path: Path) -> None:
    """Without repeating an address that may hold a password."""
    for url, said in (
        (f"unix://jobs:hunter2@{tmp_path}/no.sock", "cannot be reached"),
        (valkey_url.replace("unix://", "unix://jobs:hunter2@"), "refuses the login"),
    ):
        with pytest.raises(QueueError) as caught:
            JobProcess(url, bytes(32), "notifications", lambda: 0)
        assert said in str(caught.value)
        assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_a_queue_that_goes_away_ends_the_process_with_an_error(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor starts it again."""
    process = JobProcess(valkey_url, bytes(32), "notifications", lambda: 0)

    def gone(*_arguments: object, **_named: object) -> None:
        raise RedisConnectionError("gone")

    monkeypatch.setattr(Redis, "exists", gone)
    with signals_kept(), pytest.raises(QueueError):
        process.work({}, burst=True)
