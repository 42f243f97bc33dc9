"""Every worker is killed, or stopped, and started again: what runs hold from before is still taken back from them."""

import asyncio
import contextlib
import functools
import signal
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker_home import ENV_FILES, Home, Processes, policy_of, running_server
from desk_workbench import until
from people_home import ALICE, approvers, asked, decide

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import LeaseRevoked
from agent_sdk.secret import Secret
from agent_sdk.wire.messages import Notice, Subject
from broker_worker.people.revoking import revoke

KEY, TOKEN = "openai.api_key", "github.read_token"
WHY = {"reason": "leaked", "by": "olivia"}
NAMES = ("worker-1", "worker-2")
POLICY = policy_of("""
    claude: {allow: [openai.api_key]}
    codex: {allow: [openai.api_key, github.read_token]}
    careful: {allow: [{secret: openai.api_key, approval: {approvers: [ops]}}]}
    egress: {allow: [], acts_for: {agents: [claude, careful], deliver: [proxy]}}
""")
Kill = signal.Signals
HOW = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])


class House:
    """Two workers as processes of their own, and clients that live on while they do not.

    Args:
        processes: the workers.
        home: their installation.
    """

    def __init__(self, processes: Processes, home: Home) -> None:
        self.home = home
        self.told: list[Notice] = []
        self._processes = processes
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.AsyncExitStack()

    async def start(self, *names: str) -> None:
        """Start workers, and wait until they serve."""
        for name in names:
            self._workers.append(await self._processes.start_worker(name))

    async def end(self, how: Kill, *, only: int | None = None) -> None:
        """End all workers, or one of them; what was lent a moment ago is noted by then."""
        lent = len({record.lease_id for record in self.home.records("access") if record.lease_id})
        await until(lambda: self.noted() >= lent)
        ending = self._workers if only is None else [self._workers.pop(only)]
        for worker in ending:
            worker.send_signal(how)
        for worker in list(ending):
            await self._processes.ended(worker)
        if only is None:
            self._workers = []

    def noted(self, worker: str = "") -> int:
        """How many leases stand in the files of all processes, or of those of a worker."""
        found = self.home.settings.leases_dir.glob(f"{worker}*.jsonl")
        return sum(path.read_bytes().count(b'"is":"held"') for path in found)

    async def client(self, agent: str = "claude", **mint: Any) -> AsyncSecretBroker:
        """A client that is closed with the house; what it was told is in `told`."""
        made = self.home.client(agent, on_notice=self.told.append, **mint)
        client: AsyncSecretBroker = await self._stack.enter_async_context(made)
        return client

    def lease_of(self, run_id: str) -> tuple[str, str]:
        """Lease and token of what a run was given, as the audit says."""
        record = next(each for each in self.home.records("access") if each.run_id == run_id)
        return record.lease_id or "", record.token_id or ""

    async def close(self) -> None:
        """Close the clients."""
        await self._stack.aclose()


@pytest.fixture
async def house(embedded_home: Home, processes: Processes) -> AsyncIterator[House]:
    """Two workers on a queue that outlives them."""
    (embedded_home.settings.config_dir / "approvers.yaml").write_text(approvers(alice=ALICE))
    embedded_home.write(**{**ENV_FILES, "policy": POLICY})
    async with running_server(embedded_home):
        made = House(processes, embedded_home)
        await made.start(*NAMES)
        yield made
        await made.close()


def is_revoked(secret: Secret) -> bool:
    """Whether the SDK dropped its copy, because it was told to."""
    try:
        secret.reveal()
    except LeaseRevoked:
        return True
    return False


@HOW
async def test_orders_reach_who_was_lent_something_before_the_restart(house: House, how: Kill) -> None:
    """Whatever the order is about: nobody asks for anything, and each copy is gone all the same."""
    runs = {run: await house.client(run_id=run) for run in ("run", "lease", "token", "bystander")}
    held = {run: await client.get(KEY) for run, client in runs.items()}
    codex = await house.client("codex", run_id="codex")
    held["agent"], held["secret"] = await codex.get(KEY), await codex.get(TOKEN)
    await house.end(how)
    await house.start(*NAMES)
    assert not any(map(is_revoked, held.values()))
    subjects: dict[Any, str] = {
        "run": "claude/run",
        "lease": house.lease_of("lease")[0],
        "token": house.lease_of("token")[1],
        "secret": TOKEN,
        "agent": "codex",
    }
    for kind, subject in subjects.items():
        await revoke(house.home.settings, kind, subject, **WHY)
        await until(functools.partial(is_revoked, held[kind]))
    assert held["bystander"].reveal() == "value of openai"
    ended = {(each.run_id, each.secret_name, each.subject) for each in house.home.records("lease_ended")}
    assert ended == {
        ("run", KEY, "run:claude/run"),
        ("lease", KEY, f"lease:{subjects['lease']}"),
        ("token", KEY, f"token:{subjects['token']}"),
        ("codex", TOKEN, f"secret:{TOKEN}"),
        ("codex", KEY, "agent:codex"),
    }
    assert len(house.home.records("lease_ended")) == 5
    house.home.check_audit()


async def test_an_order_of_the_time_without_workers_is_told_when_one_starts(house: House) -> None:
    """Nothing asks for that: the worker that starts finds it by itself."""
    secret = await (await house.client(run_id="run-1")).get(KEY)
    await house.end(signal.SIGKILL)
    await revoke(house.home.settings, "run", "claude/run-1", **WHY)
    assert not is_revoked(secret)
    await house.start("worker-3")
    await until(lambda: is_revoked(secret))


async def test_a_worker_that_is_not_started_again_has_an_heir(house: House) -> None:
    """One of two was killed; the other tells whom it had lent something."""
    client = await house.client(run_id="run-1")
    served = set[str]()
    secrets = []
    while len(served) < 2:  # until both have lent something
        secrets.append(await client.get(KEY))
        served = {record.worker for record in house.home.records("access")}
    await house.end(signal.SIGKILL, only=0)
    await revoke(house.home.settings, "secret", KEY, **WHY)
    await until(lambda: all(map(is_revoked, secrets)))
    (left,) = {record.worker for record in house.home.records("lease_ended")}
    assert left == "worker-2"


@HOW
async def test_who_acts_for_a_run_is_told_after_a_restart(house: House, how: Kill) -> None:
    """A value that was asked for on behalf of a run is taken from whoever has it, by its run or by its own agent."""
    proxy = await house.client("egress", run_id="proxy")
    held = {}
    for run in ("run-1", "run-2"):
        shown = Subject(house.home.credential("claude", run_id=run).token)
        held[run] = await proxy.get(KEY, deliver="proxy", on_behalf_of=shown)
    await house.end(how)
    await house.start(*NAMES)
    await revoke(house.home.settings, "run", "claude/run-1", **WHY)
    await until(lambda: is_revoked(held["run-1"]))
    assert held["run-2"].reveal() == "value of openai"
    await revoke(house.home.settings, "agent", "egress", **WHY)
    await until(lambda: is_revoked(held["run-2"]))


async def test_who_acts_for_a_run_gives_its_lease_back_after_a_restart(house: House) -> None:
    """Whichever worker inherited it knows whose it is."""
    proxy = await house.client("egress", run_id="proxy")
    shown = Subject(house.home.credential("claude", run_id="run-1").token)
    secret = await proxy.get(KEY, deliver="proxy", on_behalf_of=shown)
    await house.end(signal.SIGKILL)
    await house.start("worker-3")
    await until(lambda: house.noted("worker-3") == 1)
    await proxy.release(secret)
    (given_back,) = [record for record in house.home.records("access") if record.action == "release"]
    assert (given_back.outcome, given_back.run_id, given_back.actor) == ("granted", "run-1", "egress/proxy")


async def test_what_workers_note_of_leases_holds_no_value_and_is_nobody_elses(house: House) -> None:
    """The files are private, name no value, and are gone when their leases were inherited."""
    secret = await (await house.client(run_id="run-1")).get(KEY)
    await house.end(signal.SIGKILL)
    folder = house.home.settings.leases_dir
    before = set(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in before)
    assert not any(secret.reveal().encode() in path.read_bytes() for path in before)
    await house.start("worker-3")
    await until(lambda: not before & set(folder.iterdir()))
    assert house.noted() == 1


@pytest.mark.parametrize("asker", ["the run", "who acts for it"])
@pytest.mark.parametrize("is_decided_before", [True, False], ids=["decided without workers", "decided afterwards"])
async def test_what_waits_for_people_outlives_all_workers(house: House, asker: str, is_decided_before: bool) -> None:
    """Workers that come after settle it, and tell whoever waits: it need not ask again by itself."""
    rest: dict[str, Any] = {}
    if asker == "the run":
        client = await house.client("careful", run_id="run-1")
    else:
        client = await house.client("egress", run_id="proxy")
        rest = {"deliver": "proxy", "on_behalf_of": Subject(house.home.credential("careful", run_id="run-1").token)}
    waits = asyncio.create_task(client.get(KEY, purpose="deploy", **rest))
    (request,) = await asked(house.home)
    await house.end(signal.SIGKILL)
    if is_decided_before:
        decide(house.home, request)
    await house.start(*NAMES)
    if not is_decided_before:
        decide(house.home, request)
    assert (await waits).reveal() == "value of openai"
    await until(lambda: house.told)
    assert [(each.event, (each.approval or b"").hex()) for each in house.told] == [
        ("approval_settled", request.approval_id)
    ]
    assert [each.reason for each in house.home.records("approval_settled")] == ["approved"]
    assert len(await asked(house.home)) == 1
