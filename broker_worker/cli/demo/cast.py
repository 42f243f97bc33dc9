"""The demo's agents: processes of their own, each started with `secret-broker launch`, that carry out our orders."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from agent_sdk.wire.messages import Source
from broker_worker.cli.demo.house import House
from broker_worker.core.errors import SetupError

RUNS = {
    "claude": ("docs-27", "keep the documentation in order"),
    "codex": ("release-14", "ship release 1.4"),
    "grok": ("research-3", "find sources"),
    "random-script": ("cron-1", "copy everything"),
}
"""What an orchestrator would call each agent's run, and its task."""
NAMES = tuple(RUNS)
PROGRAM = Path(__file__).with_name("agent.py")
_START_SECONDS = 30.0
_ORDER_SECONDS = 60.0
_STOP_SECONDS = 3.0

Asks = Sequence[tuple[str, str]]
"""Names to ask for, each with its purpose."""


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """An agent has its credential.

    Args:
        run_id: its run.
        broker_modules: which of the broker's modules its process has loaded.
        broker_variables: which of the broker's variables are left in its environment.
    """

    run_id: str
    broker_modules: tuple[str, ...]
    broker_variables: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, tag_field="event", tag="answer", kw_only=True):
    """What came of one request, as the agent told it; there is no value in it.

    Args:
        name: the secret's name.
        purpose: what the agent said that it is for.
        outcome: `granted` or the refusal's code.
        started: when it asked, seconds on the clock that all processes share.
        ended: when it had the answer.
        source: where the broker had the value from.
        words: the refusal's message.
        retry_after: seconds after which asking again may help.
        approval: the id of the approval that is waited for or was refused.
        shown: what printing the secret shows.
        proof: keyed hash of the value, hexadecimal; never printed.
    """

    name: str
    purpose: str
    outcome: str
    started: float
    ended: float
    source: Source | None = None
    words: str = ""
    retry_after: float | None = None
    approval: str = ""
    shown: str = ""
    proof: str = ""

    @property
    def granted(self) -> bool:
        """Whether the agent got the value."""
        return self.outcome == "granted"

    @property
    def seconds(self) -> float:
        """How long the agent waited."""
        return self.ended - self.started


class Over(msgspec.Struct, frozen=True, tag_field="event", tag="over"):
    """What became of a secret that an agent held and used all the time.

    Args:
        name: the secret's name.
        error: the class of the exception that using it raised at last; empty if it could still be used.
        words: what the exception said.
        at: when, seconds since the epoch.
    """

    name: str
    error: str
    words: str
    at: float


class Called(msgspec.Struct, frozen=True, tag_field="event", tag="called"):
    """What came back when an agent called a URL.

    Args:
        status: the HTTP status.
        text: the body, word for word.
    """

    status: int
    text: str


class Done(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    """An order is carried out."""


_DECODER = msgspec.json.Decoder(Ready | Answer | Over | Called | Done)


class Agent:
    """One agent's process.

    Args:
        name: the agent's id.
        process: the process, its standard streams piped.
        log: the file of its standard error.
        house: knows the values, to check what the agent got.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, house: House) -> None:
        self.name = name
        self.run_id = ""
        """Its run, once it is ready."""
        self.answers: list[Answer] = []
        """Everything that it was answered so far."""
        self.printed = bytearray()
        """Everything that its process wrote to standard output."""
        self._process = process
        self._log = log
        self._values = house.values
        self._challenge = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    async def ready(self) -> Ready:
        """Wait until it has its credential.

        Raises:
            SetupError: if it ended, or does not say so in time.
        """
        event = await self._next(_START_SECONDS)
        if not isinstance(event, Ready):
            raise self._trouble("spoke out of turn")
        self.run_id = event.run_id
        return event

    async def ask(
        self,
        asks: Asks,
        told: Callable[[Answer], None] | None = None,
        *,
        pace: float | None = None,
        seconds: float = _ORDER_SECONDS,
        **options: float | bool,
    ) -> list[Answer]:
        """Have it ask for secrets.

        Args:
            asks: what for, in order.
            told: is called for each answer when it comes.
            pace: seconds from one request to the next, whether answered or not; None to wait for each answer.
            seconds: how long the next answer may take.
            options: of the SDK's `get`, such as `ttl`.

        Returns:
            The answers in the order in which they came.

        Raises:
            SetupError: if it ended, or takes too long.
        """
        self._order(asks=asks, pace=pace, challenge=self._challenge.hex(), options=options)
        answers = []
        while not isinstance(event := await self._next(seconds), Done):
            if not isinstance(event, Answer):
                raise self._trouble("spoke out of turn")
            answers.append(event)
            self.answers.append(event)
            if told is not None:
                told(event)
        return answers

    async def watch(self, name: str, seconds: float) -> Over:
        """Have it use what it holds under a name until that fails, for so many seconds at most.

        Raises:
            SetupError: if it ended, or does not say what became of it.
        """
        self._order(watch=name, seconds=seconds)
        event = await self._next(seconds + _ORDER_SECONDS)
        done = await self._next(_ORDER_SECONDS)
        if not isinstance(event, Over) or not isinstance(done, Done):
            raise self._trouble("spoke out of turn")
        return event

    async def store(self, name: str, purpose: str, prefix: str) -> Answer:
        """Have it make up a value that begins so, and store it under a name.

        Raises:
            SetupError: if it ended, or does not say what came of it.
        """
        self._order(store={"name": name, "purpose": purpose, "prefix": prefix})
        event = await self._next(_ORDER_SECONDS)
        done = await self._next(_ORDER_SECONDS)
        if not isinstance(event, Answer) or not isinstance(done, Done):
            raise self._trouble("spoke out of turn")
        self.answers.append(event)
        return event

    async def see_rotated(self, name: str, seconds: float) -> Over:
        """Have it wait, for so many seconds at most, until it is told that what it holds under a name has a successor.

        Raises:
            SetupError: if it ended, or does not say what came of it.
        """
        self._order(rotated=name, seconds=seconds)
        event = await self._next(seconds + _ORDER_SECONDS)
        done = await self._next(_ORDER_SECONDS)
        if not isinstance(event, Over) or not isinstance(done, Done):
            raise self._trouble("spoke out of turn")
        return event

    async def call(self, url: str, seconds: float) -> Called:
        """Have it call a URL with its run's token in place of a key.

        Raises:
            SetupError: if it ended, or does not say what came back.
        """
        self._order(call={"url": url, "seconds": seconds})
        event = await self._next(seconds + _ORDER_SECONDS)
        done = await self._next(_ORDER_SECONDS)
        if not isinstance(event, Called) or not isinstance(done, Done):
            raise self._trouble("spoke out of turn")
        return event

    def has_right_value(self, answer: Answer) -> bool:
        """Whether the agent holds the value that lies in the vault under that name."""
        value = self._values.get(answer.name, b"")
        expected = hmac.new(self._challenge, value, hashlib.sha256).hexdigest()
        return bool(value) and hmac.compare_digest(expected, answer.proof)

    async def stop(self) -> None:
        """End it: its input ends, and if that is not enough, it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self.printed += await self._process.stdout.read()  # to its end, so that the pipe is closed with the loop

    def _order(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _next(self, seconds: float) -> Ready | Answer | Over | Called | Done:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self._trouble(f"said nothing for {seconds:.0f} s") from None
        self.printed += line
        if not line:
            raise self._trouble("ended")
        try:
            event: Ready | Answer | Over | Called | Done = _DECODER.decode(line)
        except msgspec.MsgspecError:
            raise self._trouble("wrote what is not understood") from None
        return event

    def _trouble(self, what: str) -> SetupError:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return SetupError(f"the demo's agent {self.name} {what}", hint=lines[-1] if lines else "")


@contextlib.asynccontextmanager
async def on_stage(house: House) -> AsyncIterator[dict[str, Agent]]:
    """Launch all agents, each as a run with a credential of its own; they are gone at the end."""
    agents: dict[str, Agent] = {}
    try:
        for name in NAMES:
            agents[name] = await _launch(house, name)
        yield agents
    finally:
        await asyncio.shield(asyncio.gather(*(agent.stop() for agent in agents.values())))


async def _launch(house: House, name: str) -> Agent:
    log = house.settings.home / f"agent-{name}.log"
    run, task = RUNS[name]
    options = ("--agent", name, "--run", run, "--task", task)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *house.command("launch", *options, "--", sys.executable, "-P", str(PROGRAM)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=house.environment(),
            start_new_session=True,
        )
    return Agent(name, process, log, house)
