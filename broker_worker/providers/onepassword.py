"""1Password as a provider, through a service account: `op://vault/item/[section/]field`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health
from broker_worker.providers.onepassword_errors import of_exception
from broker_worker.providers.onepassword_items import ItemPlace, text_of
from broker_worker.providers.onepassword_sdk import OnePasswordClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.onepassword_writing import ItemWriter
from broker_worker.providers.reference import place_of

SCHEME: Final = "op"
BATCH: Final = 50
"""References a request."""
CONCURRENCY: Final = 4
"""Requests under way at once, all callers together."""
_ATTEMPTS: Final = 3
"""How often a call may find that its session has ended meanwhile."""
_T = TypeVar("_T")


class OnePasswordProvider:
    """Fetches values from 1Password in batches.

    Args:
        session: signs in.
        timeout_seconds: how long a request may take, waiting for its turn included.
        versions: whether to ask for the version of each value, which costs another request a batch and vault.
    """

    def __init__(self, session: OnePasswordSession, timeout_seconds: float, *, versions: bool = False) -> None:
        self._session = session
        self._timeout = timeout_seconds
        self._versions = versions
        self._writer = ItemWriter(timeout_seconds)
        self._turns = asyncio.Semaphore(CONCURRENCY)

    @property
    def name(self) -> str:
        """`onepassword`."""
        return "onepassword"

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`. A value's version is its item's, if it is asked for."""
        answers: dict[str, Fetched | ProviderError] = {}
        good: list[str] = []
        for ref in refs:
            try:
                place_of(ref, SCHEME)
                good.append(ref)
            except ProviderError as error:
                answers[ref] = error
        return answers | await self._signed_in(lambda client: self._ask_all(client, good)) if good else answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Set a field, or make it, or its item; see `ports.Provider.put`."""
        place = ItemPlace.of(place_of(ref, SCHEME))
        text = text_of(value)

        async def write(client: OnePasswordClient) -> str | ProviderError:
            try:
                return await self._writer.write(client.items(), place, text, expected)
            except ProviderError as error:
                if error.kind not in {FailureKind.UNAUTHENTICATED, FailureKind.RATE_LIMITED}:
                    raise
                return error

        return await self._signed_in(write)

    async def health(self) -> Health:
        """Whether 1Password lets us in; see `ports.Provider.health`. Asks 1Password only if we are not in already."""
        try:
            await self._session.client()
        except ProviderError as error:
            return Health(False, str(error), error.hint)
        return Health(True, "signed in to 1Password")

    async def close(self) -> None:
        """Sign out; see `ports.Provider.close`."""
        await self._session.close()

    async def _signed_in(self, ask: Callable[[OnePasswordClient], Awaitable[_T | ProviderError]]) -> _T:
        """What 1Password answers, after another sign-in if the session has ended."""
        attempts = 0
        while True:
            client = await self._session.client()
            outcome = await ask(client)
            if not isinstance(outcome, ProviderError):
                self._session.served()
                return outcome
            attempts += 1
            if not self._session.failed(client, outcome) or attempts == _ATTEMPTS:
                raise outcome

    async def _ask_all(
        self, client: OnePasswordClient, refs: Sequence[str]
    ) -> dict[str, Fetched | ProviderError] | ProviderError:
        """Ask batch by batch; a batch that fails costs the others nothing. All failed: the first failure."""
        batches = [refs[start : start + BATCH] for start in range(0, len(refs), BATCH)]
        outcomes = await asyncio.gather(*(self._ask(client, batch) for batch in batches))
        failures = [outcome for outcome in outcomes if isinstance(outcome, ProviderError)]
        if len(failures) == len(batches):
            return failures[0]
        answers: dict[str, Fetched | ProviderError] = {}
        for batch, outcome in zip(batches, outcomes, strict=True):
            answers |= dict.fromkeys(batch, outcome) if isinstance(outcome, ProviderError) else outcome
        return answers

    async def _ask(
        self, client: OnePasswordClient, batch: Sequence[str]
    ) -> Mapping[str, Fetched | ProviderError] | ProviderError:
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                return await client.resolve(batch, versions=self._versions)
        except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
            return of_exception(error)
