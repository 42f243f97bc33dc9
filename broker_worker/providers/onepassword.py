"""1Password as a provider, through a service account: `op://vault/item/[section/]field`."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.onepassword_errors import of_exception
from broker_worker.providers.onepassword_items import ItemPlace, text_of
from broker_worker.providers.onepassword_sdk import OnePasswordClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.onepassword_writing import ItemWriter
from broker_worker.providers.reference import place_of

SCHEME: Final = "op"
_ATTEMPTS: Final = 3
"""How often a call may find that its session has ended meanwhile."""
_WRITES_UNTOLD: Final = "1Password's SDK does not tell whether it may write"
_T = TypeVar("_T")


class OnePasswordProvider:
    """Fetches values from 1Password, all that are asked for in one request.

    Args:
        session: signs in.
        timeout_seconds: how long a request may take.
        versions: whether to ask for the version of each value, which costs another request a vault.
    """

    def __init__(self, session: OnePasswordSession, timeout_seconds: float, *, versions: bool = False) -> None:
        self._session = session
        self._timeout = timeout_seconds
        self._versions = versions
        self._writer = ItemWriter(timeout_seconds)

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
        return {**answers, **await self._signed_in(lambda client: self._ask(client, good))} if good else answers

    def reads_of(self, refs: Sequence[str]) -> int:
        """The reads that 1Password counts at most; see `ports.MeteredProvider`.

        To find what has a name it lists the vaults, once, and the items of every vault that is named, and then reads
        every item (1Password, "Service account rate limits": three requests for one reference). For versions it reads
        every item once more.
        """
        places = [ref.removeprefix(f"{SCHEME}://").split("/") for ref in refs]
        items = len({tuple(place[:2]) for place in places})
        return 1 + len({place[0] for place in places}) + (2 * items if self._versions else items)

    @property
    def is_refused_for_good(self) -> bool:
        """Yes; see `ports.CredentialedProvider`."""
        return True

    def fingerprint(self, salt: bytes) -> str:
        """Tells the token from others; see `ports.CredentialedProvider`."""
        return self._session.fingerprint(salt)

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """Compare the vaults that the service account sees with those of the references; see `ports.ScopeReporter`.

        The SDK lists permissions of users and groups on a vault by their ids, and does not tell which id is ours.
        """
        client, failure = await self._session.client(), None
        try:
            async with asyncio.timeout(self._timeout):
                vaults = await client.vaults()
        except Exception as error:  # noqa: BLE001  # as above
            failure = of_exception(error)
        if failure is not None:
            raise failure
        needed = {ref.removeprefix(f"{SCHEME}://").partition("/")[0].casefold() for ref in refs}
        beyond = [title for vault, title in vaults.items() if not {vault.casefold(), title.casefold()} & needed]
        hint = "give the service account read access to the vaults that secrets.yaml names, and to no others"
        return Scope("vaults", tuple(sorted(beyond)), hint, untold=(_WRITES_UNTOLD,))

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Set a field, or make it, or its item; see `ports.Provider.put`."""
        place = ItemPlace.of(place_of(ref, SCHEME))
        text = text_of(value)

        async def write(client: OnePasswordClient) -> str | ProviderError:
            try:
                return await self._writer.write(client.items(), place, text, expected)
            except ProviderError as error:
                if error.kind is not FailureKind.UNAUTHENTICATED:
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
                return outcome
            attempts += 1
            if not self._session.failed(client, outcome) or attempts == _ATTEMPTS:
                raise outcome

    async def _ask(
        self, client: OnePasswordClient, refs: Sequence[str]
    ) -> Mapping[str, Fetched | ProviderError] | ProviderError:
        try:
            async with asyncio.timeout(self._timeout):
                return await client.resolve(refs, versions=self._versions)
        except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
            return of_exception(error)
