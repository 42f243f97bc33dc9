"""Fetching what the cache does not have, never in anybody else's way."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.pipeline.settling import Waiting
from broker_worker.ports import Fetched, Provider

MAX_WAITING = 10_000
"""How many requests may wait for vaults at once; more are refused as unavailable."""
_BUSY_RETRY_MS = 2_000


class Fetches:
    """Asks vaults for the references that requests wait for, those of one moment together.

    Args:
        providers: by the scheme of the references that they serve; each keeps to a deadline, and asks its vault once
            however many ask it (`providers.resilient`).
        keep: puts a result into the cache, with how many ms a value may be kept.
    """

    def __init__(
        self, providers: Mapping[str, Provider], keep: Callable[[str, Fetched | ProviderError, int], None]
    ) -> None:
        self._providers = providers
        self._keep = keep
        self._waiting: dict[int, Waiting] = {}
        self._wanted: dict[str, int] = {}
        self._in_flight: list[tuple[Mapping[str, int], set[str]]] = []
        """What is asked for, and what of it may be old."""
        self._work = asyncio.Event()
        self._ready: list[Waiting] = []
        self.done = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    def replace(self, providers: Mapping[str, Provider]) -> None:
        """Use other providers from now on; what the former ones answer is not used but asked for again."""
        self._providers = providers
        ready, self._ready = self._ready, []
        self._waiting |= {id(each): each for each in ready}
        for each in self._waiting.values():
            each.known.clear()
            each.found.clear()
            self._want(each.refs)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Have the references of requests fetched; the requests come back through `take_ready`."""
        for each in waiting:
            if len(self._waiting) >= MAX_WAITING:
                self._give_up(each, FailureKind.RATE_LIMITED, "too many requests wait for vaults", _BUSY_RETRY_MS)
                continue
            self._waiting[id(each)] = each
            self._want(each.refs)

    def _want(self, refs: Mapping[str, int]) -> None:
        for ref, ttl_ms in refs.items():
            self._wanted[ref] = max(ttl_ms, self._wanted.get(ref, 0))
        if self._wanted:
            self._work.set()

    def ask_again(self, ref: str) -> None:
        """What is being fetched from a place may be old: ask again for it when it comes."""
        for wanted, outdated in self._in_flight:
            if ref in wanted:
                outdated.add(ref)

    def take_ready(self) -> list[Waiting]:
        """The requests that can go on; `done` is set when there are some."""
        ready, self._ready = self._ready, []
        self.done.clear()
        return ready

    def give_up_overdue(self, now: int) -> None:
        """Let requests go on whose deadline passed while they waited."""
        for each in [w for w in self._waiting.values() if w.ask.request.deadline <= now]:
            del self._waiting[id(each)]
            self._give_up(each, FailureKind.TIMEOUT, "the vault did not answer before the request's deadline")

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._work.wait()
                self._work.clear()
                wanted, self._wanted = self._wanted, {}
                by_provider: dict[Provider | None, list[str]] = {}
                for ref in wanted:
                    by_provider.setdefault(self._provider_of(ref), []).append(ref)
                for provider, refs in by_provider.items():
                    asked = {ref: wanted[ref] for ref in refs}
                    # a provider asks once however many ask it: who joins an old call gets what may be old
                    outdated = {ref for ref in refs if any(ref in old for _, old in self._in_flight)}
                    self._in_flight.append((asked, outdated))
                    group.create_task(self._fetch(provider, asked, outdated))

    async def _fetch(self, provider: Provider | None, wanted: Mapping[str, int], outdated: set[str]) -> None:
        found: Mapping[str, Fetched | ProviderError] = {}
        failure = ProviderError(FailureKind.BAD_REFERENCE, "no provider is configured for this scheme")
        try:
            if provider is not None:
                found = await provider.get_many(list(wanted))
        except ProviderError as error:
            failure = error
        finally:
            self._in_flight = [flight for flight in self._in_flight if flight[1] is not outdated]
        replaced = {
            ref: ttl_ms for ref, ttl_ms in wanted.items() if self._provider_of(ref) is not provider or ref in outdated
        }
        self._want(replaced)
        self._deliver({ref: found.get(ref, failure) for ref in wanted.keys() - replaced.keys()}, wanted)

    def _provider_of(self, ref: str) -> Provider | None:
        return self._providers.get(ref.partition("://")[0])

    def _deliver(self, results: Mapping[str, Fetched | ProviderError], ttls: Mapping[str, int]) -> None:
        for ref, result in results.items():
            self._keep(ref, result, ttls[ref])
            self._wanted.pop(ref, None)  # whoever wants it since that call began is given its answer too
        for key, each in list(self._waiting.items()):
            for ref in each.refs.keys() & results.keys():
                each.found[ref] = results[ref]
            if len(each.found) == len(each.refs):
                self._ready.append(self._waiting.pop(key))
        if self._ready:
            self.done.set()

    def _give_up(self, each: Waiting, kind: FailureKind, why: str, retry_after: int | None = None) -> None:
        for ref in each.refs.keys() - each.found.keys():
            each.found[ref] = ProviderError(kind, why, retry_after=retry_after)
        self._ready.append(each)
        self.done.set()
