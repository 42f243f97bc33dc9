"""What all providers have in common when a vault is slow, down, flapping, or rations what we read.

`resilient` wraps any provider. The wrapper is one too, and what it wraps need only ask its vault:

- every call has a deadline, and a vault has a few calls at once (`vault_calls`);
- a circuit breaker and a budget of reads are shared by all workers (`governor`);
- a reference that is being fetched is not fetched again (single flight), and many go in batches;
- reads that failed in a way that may pass are tried again, after a growing, random wait or that which the vault named;
- whatever a provider returns comes out as a value that can be sent, or as a `ProviderError`.

A write is never tried again: nobody knows whether it arrived.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import refuses_us
from broker_worker.ports import (
    DynamicProvider,
    Fetched,
    Health,
    MeteredProvider,
    PartedProvider,
    Provider,
    Scope,
    ScopeReporter,
)
from broker_worker.providers.governor import Governor, NotAskedError
from broker_worker.providers.vault_calls import VaultCalls

DEADLINE_SECONDS: Final = 12.0
"""How long a call may take, its turn and everything that is tried again included."""
STORE_SECONDS: Final = 18.0
"""How long it may take to store a value, a look at what is there included: no provider is used for longer."""
BATCH: Final = 50
"""References a call of the vault."""
ATTEMPTS: Final = 3
BACKOFF_SECONDS: Final = 0.2
"""The longest wait before a read is tried again the first time; each further one is up to twice as long."""
MAX_VERSION: Final = 128
"""Longest version of a value, in bytes of UTF-8, that a reply and a lease can hold."""
_PASSING = frozenset({FailureKind.TIMEOUT, FailureKind.UNREACHABLE})

Answer = Fetched | ProviderError


_CLOSED = ProviderError(FailureKind.UNREACHABLE, "the provider was closed")


@dataclass(frozen=True, slots=True)
class _Flight:
    """What came of fetching some references: an answer for each, and why the vault served none if it did not."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    failure: ProviderError | None = None


_NOWHERE = _Flight(failure=_CLOSED)


class ResilientProvider:
    """A provider that does not let its vault's troubles through. Made by `resilient`.

    Args:
        inner: the provider that asks the vault.
        governor: whether the vault may be asked now.
        is_critical: whether a reference may use the reserve of the budget.
        deadline: seconds that a call may take.
        backoff: seconds of the first wait before a read is tried again, at most.
    """

    def __init__(
        self,
        inner: Provider,
        governor: Governor,
        is_critical: Callable[[str], bool],
        *,
        deadline: float = DEADLINE_SECONDS,
        backoff: float = BACKOFF_SECONDS,
    ) -> None:
        self._inner = inner
        self._is_parted = isinstance(inner, PartedProvider)
        self._calls = VaultCalls(inner.name, governor)
        self._is_critical = is_critical
        self._deadline = deadline
        self._backoff = wait_random_exponential(multiplier=backoff, max=deadline)
        self._flights: dict[str, asyncio.Task[_Flight]] = {}

    @property
    def name(self) -> str:
        """The inner provider's."""
        return self._inner.name

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """Fetch values; see `ports.Provider.get_many`. What is under way for somebody else already is waited for."""
        new = tuple(ref for ref in refs if ref not in self._flights)
        if new:
            flight = asyncio.create_task(self._fly(new))
            self._flights.update(dict.fromkeys(new, flight))
            flight.add_done_callback(lambda _: self._land(new))
        flights = {ref: self._flights[ref] for ref in refs}
        if not flights:
            return {}
        await asyncio.wait(set(flights.values()))
        landed = {ref: _NOWHERE if each.cancelled() else each.result() for ref, each in flights.items()}
        failures = [flight.failure for flight in landed.values() if flight.failure is not None]
        if len(failures) == len(landed):
            raise _copy(failures[0])
        return {ref: flight.answers.get(ref) or _copy(_CLOSED) for ref, flight in landed.items()}

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store a value, trying once; see `ports.Provider.put`."""
        cost = self._reads_of([ref]) + 1
        outcome = await self._calls.governed(
            lambda _: self._put(ref, value, expected), [cost], self._ends(), critical=self._is_critical(ref)
        )
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    async def health(self) -> Health:
        """Whether the vault can be reached and lets us in; see `ports.Provider.health`.

        While a wait after a refusal is on, the vault is not asked for this either.
        """
        try:
            await self._calls.check_refusal()
            return await self._calls.run(self._inner.health, self._ends())
        except ProviderError as error:
            return Health(False, str(error), error.hint or "is its network reachable?")

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """What the credential can reach; see `ports.ScopeReporter`. None if the inner provider cannot tell."""
        inner = self._inner
        if not isinstance(inner, ScopeReporter):
            return None
        return await self._calls.governed(lambda _: inner.visible(refs, written), [1], self._ends())

    async def close(self) -> None:
        """Forget the vault's credentials; see `ports.Provider.close`. Whoever waits is told."""
        flights = set(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._inner.close()

    async def _put(self, ref: str, value: bytes, expected: str | None) -> str | ProviderError | None:
        """The new version. A failure of one part is returned: it says nothing of the others."""
        try:
            return await self._inner.put(ref, value, expected=expected)
        except ProviderError as error:
            if not self._is_parted:
                raise
            return error

    def _ends(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    def _reads_of(self, refs: Sequence[str]) -> int:
        return self._inner.reads_of(refs) if isinstance(self._inner, MeteredProvider) else len(refs)

    def _land(self, refs: Sequence[str]) -> None:
        for ref in refs:
            self._flights.pop(ref, None)

    async def _fly(self, refs: Sequence[str]) -> "_Flight":
        """Fetch batch by batch. The first one goes ahead: a vault that refuses us does so once."""
        ends = self._ends()
        first, *others = self._batches(refs)
        flights = [await self._fetch(first, ends)]
        failure = flights[0].failure
        if failure is not None and refuses_us(failure.kind):
            return _Flight(dict.fromkeys(refs, failure), failure)
        flights += await asyncio.gather(*(self._fetch(batch, ends) for batch in others))
        has_failed = all(flight.failure is not None for flight in flights)
        answers = {ref: answer for flight in flights for ref, answer in flight.answers.items()}
        return _Flight(answers, failure if has_failed else None)

    def _batches(self, refs: Sequence[str]) -> Iterator[Sequence[str]]:
        """Critical references first, and by themselves: the others have no part in the reserve."""
        for critical in (True, False):
            yield from _batches_of([ref for ref in refs if self._is_critical(ref) is critical])

    async def _fetch(self, batch: Sequence[str], ends: float) -> "_Flight":
        """Fetch one batch, again where that may help."""
        answers: dict[str, Answer] = {}
        failure: ProviderError | None = None
        try:
            async for attempt in self._attempts(ends):
                with attempt:
                    await self._ask([ref for ref in batch if self._may_pass(answers.get(ref))], answers, ends)
        except ProviderError as error:
            failure = error
        found = {ref: answers.get(ref) or failure or _no_answer() for ref in batch}
        return _Flight(found, None if answers else failure)

    def _attempts(self, ends: float) -> AsyncRetrying:
        rest = ends - asyncio.get_running_loop().time()
        return AsyncRetrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(max(0.0, rest)),
            wait=self._wait,
            reraise=True,
        )

    def _may_pass(self, outcome: object) -> bool:
        """Whether asking once more, now, may give what this did not."""
        if not isinstance(outcome, ProviderError) or isinstance(outcome, NotAskedError):
            return outcome is None
        if outcome.kind is FailureKind.RATE_LIMITED:
            return outcome.retry_after is not None
        return outcome.kind in _PASSING

    def _wait(self, state: RetryCallState) -> float:
        """The wait that the vault named, else a growing one; both with jitter, so that not all come back at once."""
        error = None if state.outcome is None else state.outcome.exception()
        named = error.retry_after if isinstance(error, ProviderError) else None
        return self._backoff(state) + (0 if named is None else named / 1000)

    async def _ask(self, refs: Sequence[str], answers: dict[str, Answer], ends: float) -> None:
        """Ask the vault for references, for as many at a time as the budget allows.

        Raises:
            ProviderError: if the call failed or may not be made, or if some references failed in a way that may pass.
        """
        asked = refs
        while refs:
            found = await self._calls.governed(
                partial(self._get, refs),
                [self._reads_of(refs[: count + 1]) for count in range(len(refs))],
                ends,
                critical=self._is_critical(refs[0]),
            )
            answers |= found
            refs = refs[len(found) :]
        for ref in asked:
            answer = answers[ref]
            if isinstance(answer, ProviderError) and self._may_pass(answer):
                raise _copy(answer)

    async def _get(self, refs: Sequence[str], count: int) -> dict[str, Answer]:
        refs = refs[:count]
        answers = {ref: _usable(answer) for ref, answer in (await self._found(refs)).items()}
        first = answers[refs[0]]
        if self._is_parted:
            return answers
        if isinstance(first, ProviderError) and (first.kind in _PASSING or refuses_us(first.kind)):
            same = (isinstance(answer, ProviderError) and answer.kind is first.kind for answer in answers.values())
            if all(same):
                raise _copy(first)  # what all of them suffer from, the vault suffers from
        return answers

    async def _found(self, refs: Sequence[str]) -> Mapping[str, object]:
        found: Mapping[str, object] = {}
        try:
            found = dict(await self._inner.get_many(refs))
        except ProviderError as error:
            if not self._is_parted:
                raise
            found = dict.fromkeys(refs, error)
        return {ref: found.get(ref) for ref in refs}


class ResilientDynamicProvider(ResilientProvider):
    """The same of a vault that makes credentials and takes them back.

    Args:
        inner: the provider that asks the vault.
        governor: whether the vault may be asked now.
        is_critical: whether a reference may use the reserve of the budget.
        limits: `deadline` and `backoff`, as above.
    """

    def __init__(
        self, inner: DynamicProvider, governor: Governor, is_critical: Callable[[str], bool], **limits: float
    ) -> None:
        super().__init__(inner, governor, is_critical, **limits)
        self._maker = inner

    async def revoke(self, upstream_lease: str) -> None:
        """Take a credential back; see `ports.DynamicProvider.revoke`. It waits for no budget and no breaker."""
        await self._calls.run(lambda: self._maker.revoke(upstream_lease), self._ends())

    def _may_pass(self, outcome: object) -> bool:
        """A read may make a credential: only one that the vault refused is repeated, lest it be made twice."""
        is_refused = isinstance(outcome, ProviderError) and outcome.kind is FailureKind.RATE_LIMITED
        return (outcome is None or is_refused) and super()._may_pass(outcome)


def resilient(
    inner: Provider, governor: Governor, is_critical: Callable[[str], bool] = lambda _: False, **limits: float
) -> ResilientProvider:
    """Wrap a provider; the wrapper is a `ports.DynamicProvider` exactly if the provider is one.

    Args:
        inner: the provider that asks the vault.
        governor: whether the vault may be asked now.
        is_critical: whether a reference may use the reserve of the budget.
        limits: `deadline` and `backoff` of `ResilientProvider`, for tests.
    """
    if isinstance(inner, DynamicProvider):
        return ResilientDynamicProvider(inner, governor, is_critical, **limits)
    return ResilientProvider(inner, governor, is_critical, **limits)


def _batches_of(refs: Sequence[str]) -> Iterator[Sequence[str]]:
    """Batches in which the fields of one place stay together: of a credential that a vault makes, they are one's."""
    places: dict[str, list[str]] = {}
    for ref in refs:
        places.setdefault(ref.partition("#")[0], []).append(ref)
    batch: list[str] = []
    for fields in places.values():
        if batch and len(batch) + len(fields) > BATCH:
            yield batch
            batch = []
        batch = [*batch, *fields]
    if batch:
        yield batch


def _usable(found: object) -> Answer:
    """What a provider gave for a reference, if it is an error or a value that could be sent."""
    if isinstance(found, ProviderError):
        return found
    if not isinstance(found, Fetched) or type(found.value) is not bytes:
        return _no_answer()
    if not 0 < len(found.value) <= MAX_VALUE:
        return ProviderError(
            FailureKind.TOO_LARGE, f"the value has {len(found.value)} bytes; 1 to {MAX_VALUE} can be sent"
        )
    version: object = found.version
    fits = version is None or (isinstance(version, str) and len(version.encode(errors="replace")) <= MAX_VERSION)
    return found if fits else replace(found, version=None)


def _copy(error: ProviderError) -> ProviderError:
    """The same error to be raised once more: each raise adds to an exception's traceback."""
    return ProviderError(error.kind, str(error), retry_after=error.retry_after, hint=error.hint)


def _no_answer() -> ProviderError:
    return ProviderError(FailureKind.UNKNOWN, "the provider gave no answer for this reference")
