"""Fetching what the cache does not have: once for everybody who waits, and never in anybody else's way."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.pipeline.settling import Waiting
from broker_worker.ports import Entry, Fetched, Provider

DEADLINE_SECONDS = 12.0
"""How long one call of a provider may take."""
CALLS_PER_PROVIDER = 4
MAX_WAITING = 10_000
"""How many requests may wait for vaults at once; more are refused as unavailable."""
MAX_VERSION = 128
"""Longest version of a value, in bytes of UTF-8, that a reply and a lease can hold."""
_BUSY_RETRY_MS = 2_000

_log = structlog.get_logger()


class Fetches:
    """Asks vaults for references, each once however many requests wait for it (single flight).

    Args:
        providers: by the scheme of the references that they serve.
        keep: puts a result into the cache, with how many ms a value may be kept.
        deadline: seconds that one call of a provider may take.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        keep: Callable[[str, Fetched | ProviderError, int], None],
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._providers = providers
        self._keep = keep
        self._deadline = deadline
        self._slots = {provider: asyncio.Semaphore(CALLS_PER_PROVIDER) for provider in set(providers.values())}
        self._waiting: dict[int, Waiting] = {}
        self._wanted: dict[str, int] = {}
        self._in_flight: set[str] = set()
        self._outdated: set[str] = set()
        self._work = asyncio.Event()
        self._ready: list[Waiting] = []
        self._failing: dict[str, FailureKind] = {}
        self.done = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    def replace(self, providers: Mapping[str, Provider]) -> None:
        """Use other providers from now on; what the former ones still answer is not used but asked for again."""
        self._providers = providers
        self._slots = {provider: asyncio.Semaphore(CALLS_PER_PROVIDER) for provider in set(providers.values())}
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
            if ref not in self._in_flight:
                self._wanted[ref] = max(ttl_ms, self._wanted.get(ref, 0))
        if self._wanted:
            self._work.set()

    def ask_again(self, ref: str) -> None:
        """What is being fetched from a place may be old: ask again for it when it comes."""
        if ref in self._in_flight:
            self._outdated.add(ref)

    def entries(self) -> list[Entry]:
        """The entries whose requests wait or can go on."""
        return [each.ask.entry for each in (*self._waiting.values(), *self._ready)]

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
                self._in_flight.update(wanted)
                by_provider: dict[Provider | None, list[str]] = {}
                for ref in wanted:
                    by_provider.setdefault(self._provider_of(ref), []).append(ref)
                for provider, refs in by_provider.items():
                    group.create_task(self._fetch(provider, {ref: wanted[ref] for ref in refs}))

    async def _fetch(self, provider: Provider | None, wanted: Mapping[str, int]) -> None:
        found: dict[str, object] = {}
        failure = ProviderError(FailureKind.UNKNOWN, "the provider gave no answer for this reference")
        try:
            if provider is None:
                failure = ProviderError(FailureKind.BAD_REFERENCE, "no provider is configured for this scheme")
            else:
                async with self._slots[provider], asyncio.timeout(self._deadline):
                    found = dict(await provider.get_many(list(wanted)))
                self._note(provider, None)
        except ProviderError as error:
            failure = error
            self._note(provider, failure)
        except TimeoutError:
            failure = ProviderError(FailureKind.TIMEOUT, "the vault did not answer in time")
            self._note(provider, failure)
        except Exception as error:  # noqa: BLE001  # a defect in a provider must not end the worker
            _log.error("provider_defect", provider=provider and provider.name, error=type(error).__name__)
        finally:
            self._in_flight.difference_update(wanted)
        replaced = {
            ref: ttl_ms
            for ref, ttl_ms in wanted.items()
            if self._provider_of(ref) is not provider or ref in self._outdated
        }
        self._outdated.difference_update(wanted)
        self._want(replaced)
        self._deliver({ref: _usable(found.get(ref), failure) for ref in wanted.keys() - replaced.keys()}, wanted)

    def _note(self, provider: Provider | None, failure: ProviderError | None) -> None:
        """Log that a vault as a whole began to fail, fails for another reason, or serves again; not every failure."""
        name = "none" if provider is None else provider.name
        before = self._failing.pop(name, None)
        if failure is not None:
            self._failing[name] = failure.kind
            if failure.kind is not before:
                _log.error(
                    "vault_failed", provider=name, kind=failure.kind.value, error=str(failure), hint=failure.hint
                )
        elif before is not None:
            _log.info("vault_serves_again", provider=name)

    def _provider_of(self, ref: str) -> Provider | None:
        return self._providers.get(ref.partition("://")[0])

    def _deliver(self, results: Mapping[str, Fetched | ProviderError], ttls: Mapping[str, int]) -> None:
        for ref, result in results.items():
            self._keep(ref, result, ttls[ref])
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


def _usable(found: object, otherwise: ProviderError) -> Fetched | ProviderError:
    """What a provider gave for a reference; `otherwise` if that is neither an error nor a value that could be sent."""
    if isinstance(found, ProviderError):
        return found
    if not isinstance(found, Fetched) or type(found.value) is not bytes:
        return otherwise
    if not 0 < len(found.value) <= MAX_VALUE:
        return ProviderError(
            FailureKind.TOO_LARGE, f"the value has {len(found.value)} bytes; 1 to {MAX_VALUE} can be sent"
        )
    version: object = found.version
    fits = version is None or (isinstance(version, str) and len(version.encode(errors="replace")) <= MAX_VERSION)
    return found if fits else Fetched(found.value)
