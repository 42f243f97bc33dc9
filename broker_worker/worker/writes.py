"""Writing to vaults: beside the batches, like fetches, so that a slow vault holds up nobody else."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Put
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.recipes import parse_recipe
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.generating import generate
from broker_worker.pipeline.writing import Clash, Stored, Writing
from broker_worker.ports import Fetched, Provider
from broker_worker.providers.resilient import MAX_VERSION, STORE_SECONDS

MAX_WRITES = 256
"""How many writes to one vault may be under way at once; more are refused as unavailable."""
MAKERS = 2
"""How many values are made at once: an RSA key takes seconds, and reads of vaults must not wait for its thread."""
_BUSY_RETRY_MS = 2_000

_Step = Callable[[Writing], Coroutine[None, None, None]]

_log = structlog.get_logger()


class Writes:
    """Carries writes through making a value and storing it.

    Args:
        providers: by the scheme of the references that they serve.
        done: set whenever something can go on.
        deadline: seconds that storing a value may take, a look at what is there included.
    """

    def __init__(self, providers: Mapping[str, Provider], done: asyncio.Event, deadline: float = STORE_SECONDS) -> None:
        self.replace(providers)
        self._done = done
        self._deadline = deadline
        self._steps: list[tuple[_Step, Writing]] = []
        self._work = asyncio.Event()
        self._under_way: dict[int, Writing] = {}
        self._makers = ThreadPoolExecutor(MAKERS, "making")
        self._made: list[Writing] = []
        self._finished: list[Writing] = []

    def replace(self, providers: Mapping[str, Provider]) -> None:
        """Use other providers for what begins from now on."""
        self._providers = providers

    def add(self, asks: Iterable[Ask]) -> None:
        """Take admitted writes; they come back through `take_made` when their values are there."""
        for ask in asks:
            writing, body = Writing(ask), ask.request.body
            if sum(_scheme(other) == _scheme(writing) for other in self._under_way.values()) >= MAX_WRITES:
                writing.case.refuse(Code.UNAVAILABLE, "too_many_writes", _BUSY_RETRY_MS)
                self._hand_back(self._made, writing)
            elif isinstance(body, Put):
                writing.value = body.value
                self._hand_back(self._made, writing)
            else:
                self._start(self._make, writing)
            self._under_way[id(writing)] = writing

    def start(self, writings: Iterable[Writing]) -> None:
        """Store values whose writes began; they come back through `take_finished`."""
        for writing in writings:
            self._start(self._store, writing)

    def take_made(self) -> list[Writing]:
        """Writes that can begin."""
        made, self._made = self._made, []
        return made

    def take_finished(self) -> list[Writing]:
        """Writes that have an outcome."""
        finished, self._finished = self._finished, []
        return finished

    def drop(self, writings: Iterable[Writing]) -> None:
        """Forget writes that were answered, or whose entries were put down."""
        for writing in writings:
            self._under_way.pop(id(writing), None)

    async def run(self) -> None:
        """Carry writes until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._work.wait()
                self._work.clear()
                steps, self._steps = self._steps, []
                for step, writing in steps:
                    group.create_task(step(writing))

    def _start(self, step: _Step, writing: Writing) -> None:
        self._steps.append((step, writing))
        self._work.set()

    async def _make(self, writing: Writing) -> None:
        body = writing.ask.request.body
        assert isinstance(body, Generate)
        making = asyncio.get_running_loop().run_in_executor(self._makers, generate, parse_recipe(body.recipe))
        writing.value = await making
        self._hand_back(self._made, writing)

    async def _store(self, writing: Writing) -> None:
        assert writing.entry is not None
        provider = self._providers.get(writing.entry.ref.partition("://")[0])
        writing.outcome = ProviderError(FailureKind.BAD_REFERENCE, "no provider is configured for this scheme")
        try:
            if provider is not None:
                async with asyncio.timeout(self._deadline):
                    writing.outcome = await self._put(provider, writing, writing.entry.ref)
        except ProviderError as error:
            writing.outcome = error
        except TimeoutError:
            writing.outcome = ProviderError(FailureKind.TIMEOUT, "the vault did not answer in time")
        except Exception as error:  # noqa: BLE001  # a defect in a provider must not end the worker
            _log.error("provider_defect", provider=provider and provider.name, error=type(error).__name__)
            writing.outcome = ProviderError(FailureKind.UNKNOWN, "the provider has a defect")
        if isinstance(writing.outcome, ProviderError):
            failure = writing.outcome
            _log.error("write_failed", kind=failure.kind.value, error=str(failure), hint=failure.hint)
        self._hand_back(self._finished, writing)

    @staticmethod
    async def _put(provider: Provider, writing: Writing, ref: str) -> Stored | Clash:
        """Store a value; where the place differs, see whether it holds this very write from before a crash."""
        try:
            return Stored(_usable(await provider.put(ref, writing.value, expected=writing.expected)))
        except ProviderError as error:
            if error.kind is not FailureKind.CONFLICT:
                raise
        found = (await provider.get_many([ref])).get(ref)
        if not isinstance(found, Fetched):
            return Clash(None)
        if writing.is_own(found.value):
            writing.value = found.value
            return Stored(_usable(found.version))
        return Clash(_usable(found.version))

    def _hand_back(self, to: list[Writing], writing: Writing) -> None:
        to.append(writing)
        self._done.set()


def _scheme(writing: Writing) -> str:
    entry = writing.case.entry
    return "" if entry is None else entry.ref.partition("://")[0]


def _usable(version: object) -> str | None:
    """A version that a reply can hold; None of anything else that a provider could return."""
    fits = isinstance(version, str) and 0 < len(version.encode(errors="replace")) <= MAX_VERSION
    return version if fits and isinstance(version, str) else None
