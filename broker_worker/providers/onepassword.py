"""1Password as a provider, through a service account: `op://vault/item/[section/]field`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health
from broker_worker.providers.onepassword_errors import of_exception
from broker_worker.providers.onepassword_sdk import OnePasswordClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.reference import place_of

SCHEME: Final = "op"
BATCH: Final = 50
"""References a request."""
CONCURRENCY: Final = 4
"""Requests under way at once, all callers together."""
_ATTEMPTS: Final = 3
"""How often a call may find that its session has ended meanwhile."""


class OnePasswordProvider:
    """Fetches values from 1Password in batches.

    Args:
        session: signs in.
        timeout_seconds: how long a request may take, waiting for its turn included.
    """

    def __init__(self, session: OnePasswordSession, timeout_seconds: float) -> None:
        self._session = session
        self._timeout = timeout_seconds
        self._turns = asyncio.Semaphore(CONCURRENCY)

    @property
    def name(self) -> str:
        """`onepassword`."""
        return "onepassword"

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`. 1Password tells no versions."""
        answers: dict[str, Fetched | ProviderError] = {}
        good: list[str] = []
        for ref in refs:
            try:
                place_of(ref, SCHEME)
                good.append(ref)
            except ProviderError as error:
                answers[ref] = error
        return answers | await self._fetch(good) if good else answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Refuse; see `ports.Provider.put`."""
        raise ProviderError(
            FailureKind.READ_ONLY, "the broker does not write to 1Password", hint="change the item in 1Password"
        )

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

    async def _fetch(self, refs: Sequence[str]) -> dict[str, Fetched | ProviderError]:
        attempts = 0
        while True:
            client = await self._session.client()
            outcome = await self._ask_all(client, refs)
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
                return await client.resolve(batch)
        except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
            return of_exception(error)
