"""What tests of the broker share: the operator's files, clocks, runs that ask, and a desk with all around it."""

import asyncio
import base64
import secrets
import textwrap
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from desk_ports import JobNotebook, LocalAdmission, Notebook, OnceNotebook, OrderNotebook
from fake_vault import FakeVault

from agent_sdk.channel import RunChannel
from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.wire import keynames
from agent_sdk.wire.messages import ListNames, Operation, Reply, Request, Resolve, Result
from agent_sdk.wire.sealing import key_id, run_public_key
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.cache.memory import MemoryCache
from broker_worker.core.approval_book import ApprovalBook
from broker_worker.core.configuration import Configuration
from broker_worker.core.leases import LeaseMint, lease_key
from broker_worker.core.revocations import Revocations
from broker_worker.files.configuration import load_configuration
from broker_worker.pipeline import Desk
from broker_worker.pipeline.affairs import Affairs, AffairsKeys
from broker_worker.pipeline.approving import Approvals
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.leasing import Leases
from broker_worker.pipeline.opening import Intake, Opener
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.session import start_session
from broker_worker.pipeline.settling import Served
from broker_worker.pipeline.superseding import Superseding
from broker_worker.pipeline.writing import Writer
from broker_worker.ports import Answer, Entry
from broker_worker.state.write_file import WriteFile
from broker_worker.worker.writes import Writes

LONG = 45.0
"""How long a test waits for what must happen, in seconds; only a failing test waits that long."""
NOW = 1_900_000_000_000
"""In the future: to a clock that is far behind the queue's, each of its entries looks spoiled."""
IDENTITY, ISSUER_SEED, INTAKE_SECRET, CONTROL_SEED = (bytes([n]) * 32 for n in (3, 2, 4, 6))

POLICY = """
    agents:
      claude:
        allow: [openai.api_key, anthropic.api_key]
      codex:
        allow: [github.read_token, openai.api_key]
      random-script:
        allow: []
"""
SECRETS = """
    secrets:
      openai.api_key: "local://openai"
      anthropic.api_key: "local://anthropic"
      github.read_token: "local://github"
"""


async def until(condition: Callable[[], Awaitable[Any] | Any], seconds: float = LONG) -> Any:
    """Poll until the condition holds, and return what it gave."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def write_files(
    folder: Path,
    *,
    policy: str = POLICY,
    registry: str = SECRETS,
    broker: str = "provider: {type: local}",
    issuers: str | None = None,
    issuer_seed: bytes = ISSUER_SEED,
) -> Path:
    """Write the operator's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    public = base64.urlsafe_b64encode(run_public_key(issuer_seed)).decode().rstrip("=")
    issuers = issuers or f"issuers:\n  - {{name: local, public_key: {public}, all_agents: true, max_lifetime: 8h}}\n"
    for name, text in (("policy", policy), ("secrets", registry), ("broker", broker), ("issuers", issuers)):
        path = folder / f"{name}.yaml"
        path.with_suffix(".new").write_text(textwrap.dedent(text))
        path.with_suffix(".new").replace(path)
    return folder


@dataclass
class TurnedClock:
    """A clock that stands still until a test turns it, or sets it back as people do; in ms."""

    time: int = NOW
    set_back: int = 0

    def now(self) -> int:
        return self.time - self.set_back

    def monotonic_us(self) -> int:
        return self.time * 1000


@dataclass
class ShiftedClock:
    """The host's clocks, with wall time moved by `shift` ms."""

    shift: int = 0

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self.shift

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1_000


@dataclass
class Run:
    """One run: seals what it asks and opens what it is answered.

    Args:
        credential: what it was handed.
        now: its clock, ms since the epoch.
    """

    credential: RunCredential
    now: Callable[[], int]

    def __post_init__(self) -> None:
        self.channel = RunChannel(self.credential)
        self.requests = keynames.requests(self.credential.agent_id)

    @property
    def agent(self) -> str:
        return self.credential.agent_id

    def request(self, *names: str, body: Operation | None = None, life: int = 15_000, **other: Any) -> Request:
        """A request for names; `purpose`, `ttl`, `issued_at`, `deadline`, `token` and `request_id` may be given."""
        now = self.now()
        if body is None:
            body = Resolve(names, other.get("purpose", ""), other.get("ttl")) if names else ListNames()
        return Request(
            other.get("request_id") or secrets.token_bytes(16),
            other.get("issued_at", now),
            other.get("deadline", now + life),
            other.get("token", self.credential.token),
            body,
        )

    def sealed(self, *names: str, **arguments: Any) -> bytes:
        """The envelope of such a request."""
        return self.channel.seal(self.request(*names, **arguments))

    def seal_bytes(self, plaintext: bytes) -> bytes:
        """An envelope of anything at all, under this run's key."""
        return self.channel._sealer.seal(plaintext, secrets.token_bytes(24))

    def open(self, envelope: bytes | None) -> Reply:
        """What the broker answered to this run."""
        assert envelope is not None, "there was no answer"
        reply = self.channel.open(envelope, self.now())
        assert isinstance(reply, Reply), "not opened"
        return reply


class DeskBench:
    """A desk with everything around it in this process: a clock to turn, a notebook for an audit, a vault.

    Args:
        folder: where the operator's files are written.
        files: what they say (`write_files`).
    """

    def __init__(self, folder: Path, *, max_entries: int = 100, max_cold: int = 1024, **files: Any) -> None:
        self._folder = folder
        self.clock = TurnedClock()
        self.sink = Notebook()
        self.cache = MemoryCache(max_entries)
        self.admission = LocalAdmission(self.clock.monotonic_us)
        self.vault = FakeVault()
        keys = start_session(IDENTITY, "intake", NOW, INTAKE_SECRET)  # any X25519 pair does for an intake key
        self.intake = Intake(keys.public, keys.secret)
        configuration = load_configuration(write_files(folder, **files))
        self.once, self.settled, self.orders, self.jobs = OnceNotebook(), OnceNotebook(), OrderNotebook(), JobNotebook()
        peers, revocations = PeerCache(), Revocations()
        leases = Leases(LeaseMint(lease_key(IDENTITY)), revocations)
        self.write_log = WriteFile(folder.parent / f"{folder.name}-state" / "writes.jsonl", self.clock.now)
        identity = IDENTITY + run_public_key(IDENTITY)
        self.affairs = Affairs(
            worker="worker-1",
            keys=AffairsKeys(identity, run_public_key(CONTROL_SEED)),
            approvals=Approvals(ApprovalBook(lambda *_: False), self.once, self.cache, "worker-1"),
            leases=leases,
            revocations=revocations,
            revocation_log=self.orders,
            settled=self.settled,
            sink=self.sink,
            cache=self.cache,
            peers=peers,
            jobs=self.jobs,
            superseding=Superseding(self.write_log, identity, self.cache, leases),
        )
        verifier = TokenVerifier(configuration.anchors, 30_000)
        self.desk = Desk(
            configuration=configuration,
            opener=Opener({key_id(keys.public): self.intake}, verifier, peers, 30_000, max_cold=max_cold),
            cache=self.cache,
            sink=self.sink,
            affairs=self.affairs,
            clock=self.clock,
            session=start_session(IDENTITY, "worker-1", NOW, bytes([5]) * 32),
            provider_of=lambda ref: ref.partition("://")[0],
        )
        self.writer = Writer(self.desk, self.sink, self.write_log, self.clock)
        self._entries = 0

    def load(self, **files: Any) -> Configuration:
        """Write other files and swap them in."""
        before = self.desk.configuration
        configuration = load_configuration(write_files(self._folder, **files))
        self.desk.reconfigure(
            configuration,
            TokenVerifier(configuration.anchors, 30_000),
            forget_values=configuration.providers != before.providers,
        )
        return configuration

    def run(self, agent: str = "claude", issuer_seed: bytes = ISSUER_SEED, **mint: Any) -> Run:
        """A run of an agent; `run_id`, `ttl`, `scope` and `task` as `RunIssuer.mint` takes them."""
        issuer = RunIssuer(issuer_seed, "local", clock=self.clock.now)
        mint.setdefault("ttl", timedelta(hours=1))
        credential = issuer.mint(
            agent, broker=run_public_key(IDENTITY), intake=self.intake.public, queue_url="unix:///nowhere", **mint
        )
        return Run(credential, self.clock.now)

    def entry(
        self, run: Run, raw: bytes | None = None, *names: str, agent: str | None = None, **arguments: Any
    ) -> Entry:
        """A fresh entry on a run's stream (or another agent's): of `raw`, or of a request for names."""
        self._entries += 1
        envelope = run.sealed(*names, **arguments) if raw is None else raw
        entry_id = f"{self.clock.now()}-{self._entries}".encode()
        return Entry(agent or run.agent, entry_id, envelope, self.clock.monotonic_us())

    async def serve(self, *entries: Entry) -> Served:
        """Everything that the desk does with a batch, until nothing waits to be opened."""
        served = await self.desk.serve(self.desk.open(entries), self.admission)
        while self.desk.opener.has_cold:
            more = await self.desk.serve(self.desk.open([]), self.admission)
            served.answers += more.answers
            served.waiting += more.waiting
            served.writes += more.writes
        return served

    async def finish(self, served: Served) -> list[Answer]:
        """Fetch what is missing and settle what waited."""
        for waiting in served.waiting:
            found = await self.vault.get_many(list(waiting.refs))
            for ref, ttl_ms in waiting.refs.items():
                self.desk.keep(ref, found[ref], ttl_ms)
            waiting.found.update(found)
        answers = served.answers + await self.desk.resume(served.waiting, self.admission)
        return answers + await self.write(served.writes) if served.writes else answers

    async def write(self, asks: Sequence[Ask]) -> list[Answer]:
        """Carry writes through to their answers, as a worker does."""
        writes = Writes({"local": self.vault}, asyncio.Event())
        running = asyncio.ensure_future(writes.run())
        try:
            writes.add(asks)
            made = await until(writes.take_made)
            begun, answers = await self.writer.begin(made, self.admission)
            writes.start(begun)
            if begun:
                answers += self.writer.finish(await until(writes.take_finished))
            return answers
        finally:
            running.cancel()

    async def ask(self, run: Run, *names: str, **arguments: Any) -> Reply:
        """One request, from its sealing to its answer."""
        entry = self.entry(run, None, *names, **arguments)
        (answer,) = await self.finish(await self.serve(entry))
        assert answer.entry is entry
        return run.open(answer.envelope)

    async def ask_one(self, run: Run, name: str, **arguments: Any) -> Result:
        """One name's result."""
        reply = await self.ask(run, name, **arguments)
        assert reply.results, reply
        return reply.results[0]
