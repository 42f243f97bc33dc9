"""The local vault as a provider: `local://NAME`."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from broker_worker.core.errors import BrokerError, FailureKind, ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.local_vault import LocalVault, not_found
from broker_worker.providers.reference import place_of

SCHEME: Final = "local"
T = TypeVar("T")


class LocalProvider:
    """Serves the entries of a local vault.

    File access and key derivation run in threads: neither holds up the event loop.

    Args:
        vault: the vault.
        forget_keys: drops the derived keys when the provider is closed.
        now: the time, ms since the epoch.
        timeout_seconds: how long a call may take; a vault on a network file system can hang.
    """

    def __init__(
        self, vault: LocalVault, forget_keys: Callable[[], None], now: Callable[[], int], timeout_seconds: float = 10
    ) -> None:
        self._vault = vault
        self._forget_keys = forget_keys
        self._now = now
        self._timeout = timeout_seconds
        self._closed = False

    @property
    def name(self) -> str:
        """`local`."""
        return SCHEME

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch entries; see `ports.Provider.get_many`."""
        answers: dict[str, Fetched | ProviderError] = {}
        names: dict[str, str] = {}
        for ref in refs:
            try:
                names[ref] = place_of(ref, SCHEME)
            except ProviderError as error:
                answers[ref] = error
        if names:
            entries = await self._in_thread(lambda: self._vault.read(names.values()))
            for ref, name in names.items():
                entry = entries.get(name)
                answers[ref] = not_found(name) if entry is None else Fetched(entry.value, str(entry.version))
        return answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store an entry; see `ports.Provider.put`."""
        name = place_of(ref, SCHEME)
        return str(await self._in_thread(lambda: self._vault.set(name, value, self._now(), expected)))

    async def health(self) -> Health:
        """Whether the vault opens; see `ports.Provider.health`."""
        try:
            count = len(await self._in_thread(self._vault.describe))
        except ProviderError as error:
            return Health(False, str(error), error.hint)
        return Health(True, f"the local vault opens; entries: {count}")

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """The entries that no reference names; see `ports.ScopeReporter`. Whoever has the key can write them all."""
        needed = {ref.removeprefix(f"{SCHEME}://") for ref in refs}
        entries = await self._in_thread(self._vault.describe)
        hint = "`secret-broker vault rm NAME` removes what nobody needs any more"
        return Scope("entries", tuple(name for name in entries if name not in needed), hint)

    async def close(self) -> None:
        """Forget the vault's key; see `ports.Provider.close`."""
        self._closed = True
        self._forget_keys()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise ProviderError(FailureKind.UNREACHABLE, "the local vault's provider was closed")
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.to_thread(call)
        except ProviderError:
            raise
        except BrokerError as error:
            failure = ProviderError(FailureKind.UNREACHABLE, str(error), hint=error.hint)
        except TimeoutError:
            message = f"the local vault did not answer within {self._timeout:g} s"
            failure = ProviderError(FailureKind.TIMEOUT, message, hint="is it on a slow file system?")
        except OSError as error:
            message = f"the local vault's file cannot be read: {error.strerror}"
            failure = ProviderError(FailureKind.UNREACHABLE, message, hint="check its disk")
        raise failure
