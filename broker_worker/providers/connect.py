"""1Password as a provider, through a Connect server of one's own: `connect://vault/item/[section/]field`."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.connect_api import ConnectApi
from broker_worker.providers.connect_errors import no_item, of_exception
from broker_worker.providers.connect_session import ConnectSession
from broker_worker.providers.onepassword_items import ItemPlace, SpotKind, StoredItem, not_found, text_of, value_of
from broker_worker.providers.onepassword_writing import ItemWriter
from broker_worker.providers.reference import place_of

SCHEME: Final = "connect"
_VISIBLE_PART: Final = 4
"""The part of the time for a write that Connect has for showing it."""
_WRITES_UNTOLD: Final = "Connect does not tell whether its token may write"
_T = TypeVar("_T")
_Answers = dict[str, Fetched | ProviderError]
_Wanted = dict[str, dict[str, dict[str, ItemPlace]]]
"""Places by vault, item and reference."""


class ConnectProvider:
    """Fetches values from a Connect server, each item once a call however many of its fields are asked for.

    Args:
        api: the server.
        timeout_seconds: how long a call may take, waiting for turns included.
    """

    def __init__(self, api: ConnectApi, timeout_seconds: float) -> None:
        self._api = api
        self._timeout = timeout_seconds
        self._writer = ItemWriter(timeout_seconds)

    @property
    def name(self) -> str:
        """`connect`."""
        return SCHEME

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`. A value's version is its item's."""
        answers: _Answers = {}
        wanted: _Wanted = {}
        for ref in refs:
            try:
                place = ItemPlace.of(place_of(ref, SCHEME))
                wanted.setdefault(place.vault, {}).setdefault(place.item, {})[ref] = place
            except ProviderError as error:
                answers[ref] = error
        return answers | await self._fetch(wanted) if wanted else answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Set a field, or make it, or its item; see `ports.Provider.put`."""
        place = ItemPlace.of(place_of(ref, SCHEME))
        text = text_of(value)
        return await self._writer.write(await self._session(), place, text, expected)

    @property
    def is_refused_for_good(self) -> bool:
        """Yes; see `ports.CredentialedProvider`."""
        return True

    def fingerprint(self, salt: bytes) -> str:
        """Tells the access token from others; see `ports.CredentialedProvider`."""
        return self._api.fingerprint(salt)

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """Compare the vaults that the token sees with those of the references; see `ports.ScopeReporter`."""
        session = await self._session()
        vaults = await _until(self._ends(), session.vaults())
        needed = {ItemPlace.of(place_of(ref, SCHEME)).vault for ref in refs}
        beyond = [vault.name for vault in vaults if not {vault.id, vault.name} & needed]
        hint = "give the access token the vaults that secrets.yaml names, and no others"
        return Scope("vaults", tuple(sorted(beyond)), hint, untold=(_WRITES_UNTOLD,))

    async def health(self) -> Health:
        """Whether Connect answers and shows us a vault; see `ports.Provider.health`."""
        try:
            session = await self._session()
            version = await _until(self._ends(), session.version())
            count = len(await _until(self._ends(), session.vaults()))
        except ProviderError as error:
            return Health(False, str(error), error.hint)
        if not count:
            return Health(False, "Connect's access token sees no vault", "give the token a vault, or use another")
        return Health(True, f"Connect {version} lets us in; vaults: {count}".replace("  ", " "))

    async def close(self) -> None:
        """Close connections and forget the token; see `ports.Provider.close`."""
        await self._api.close()

    async def _session(self) -> ConnectSession:
        return ConnectSession(self._api, await self._api.open(), self._timeout / _VISIBLE_PART)

    def _ends(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _fetch(self, wanted: _Wanted) -> _Answers:
        """Fetch vault by vault and item by item; one that fails costs the others nothing.

        Raises:
            ProviderError: if all failed for reasons that are not in their names: the first.
        """
        session, ends = await self._session(), self._ends()
        found = await asyncio.gather(*(_of_vault(session, ends, vault, items) for vault, items in wanted.items()))
        outcomes = [each for outcomes in found for each in outcomes]
        failures = [each for _, each in outcomes if isinstance(each, ProviderError) and not each.is_about_the_name]
        if len(failures) == len(outcomes):
            raise failures[0]
        answers: _Answers = {}
        for refs, outcome in outcomes:
            answers |= dict.fromkeys(refs, outcome) if isinstance(outcome, ProviderError) else outcome
        return answers


async def _of_vault(
    session: ConnectSession, ends: float, name: str, items: Mapping[str, Mapping[str, ItemPlace]]
) -> list[tuple[Mapping[str, ItemPlace], _Answers | ProviderError]]:
    """What came of each item of one vault: the references, and their answers or why there is none for them all."""
    try:
        vault = await _until(ends, session.vault_id(name))
    except ProviderError as error:
        return [(places, error) for places in items.values()]

    async def of_item(item: str, places: Mapping[str, ItemPlace]) -> _Answers | ProviderError:
        try:
            return await _until(ends, _answers_of(session, vault, item, places))
        except ProviderError as error:
            return error

    outcomes = await asyncio.gather(*(of_item(item, places) for item, places in items.items()))
    return list(zip(items.values(), outcomes, strict=True))


async def _answers_of(session: ConnectSession, vault: str, item: str, places: Mapping[str, ItemPlace]) -> _Answers:
    """What one item holds at several places."""
    stored = await session.find(vault, item)
    if stored is None:
        raise no_item()
    answers: _Answers = {}
    for ref, place in places.items():
        try:
            answers[ref] = Fetched(await _value(session, stored, place), str(stored.version))
        except ProviderError as error:
            answers[ref] = error
    return answers


async def _value(session: ConnectSession, item: StoredItem, place: ItemPlace) -> bytes:
    spot = item.find(place)
    if spot is None:
        raise not_found("field or file of the item")
    if spot.kind is SpotKind.FIELD:
        return value_of(spot.value)
    content = await session.content(item, spot)
    if not content:
        raise ProviderError(FailureKind.NOT_FOUND, "the file is empty", hint="attach it again in 1Password")
    return content


async def _until(ends: float, work: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout_at(ends):
            return await work
    except TimeoutError as error:
        failure = of_exception(error)
    raise failure
