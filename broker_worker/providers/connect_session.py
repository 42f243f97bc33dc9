"""Vaults, items, fields and files of a Connect server, for the length of one call of the provider."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.connect_answers import HealthAnswer, ItemAnswer, ItemSummary, VaultAnswer, read
from broker_worker.providers.connect_api import MAX_ANSWER, ConnectAnswer, ConnectApi
from broker_worker.providers.connect_errors import answer_too_long, no_item, no_vault, unreadable_answer
from broker_worker.providers.onepassword_items import ItemPlace, Spot, StoredItem, ambiguous, is_id

_CATEGORY: Final = "API_CREDENTIAL"
_NEW_SECTION: Final = "section"
"""The id of a new item's only section."""
_POLL_SECONDS: Final = 0.1
_VERSION = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){1,3}", re.ASCII)


class ConnectSession:
    """A Connect server, with the token of one call. It is an `ItemStore`.

    Args:
        api: the server.
        token: the access token.
        visible_seconds: how long to wait for Connect to show what it was given: it writes to 1Password and reads from
            its own copy.
    """

    def __init__(self, api: ConnectApi, token: str, visible_seconds: float) -> None:
        self._api = api
        self._token = token
        self._visible = visible_seconds

    async def version(self) -> str:
        """The server's own version; empty if it is not of a version's form."""
        answer = await self._api.send("GET", "/health", token=None, query={}, body=None, most=MAX_ANSWER)
        found = read(answer.json, HealthAnswer).version
        return found if _VERSION.fullmatch(found) else ""

    async def vaults(self, name: str | None = None) -> list[VaultAnswer]:
        """The vaults that the token sees; with a name, those of exactly this name."""
        query = {} if name is None else {"filter": f'name eq "{name}"'}
        found = read((await self._get("/vaults", query)).json, list[VaultAnswer])
        return [vault for vault in found if name is None or vault.name == name]

    async def vault_id(self, name: str) -> str:
        """See `ItemStore.vault_id`."""
        if is_id(name):
            return name
        found = await self.vaults(name)
        if len(found) > 1:
            raise ambiguous("vault")
        if not found:
            raise no_vault()
        return found[0].id

    async def titled(self, vault: str, title: str) -> Sequence[str]:
        """See `ItemStore.titled`; what is archived does not count."""
        answer = await self._get(f"/vaults/{vault}/items", {"filter": f'title eq "{title}"'})
        found = read(answer.json, list[ItemSummary])
        return [item.id for item in found if item.title == title and not item.is_gone]

    async def find(self, vault: str, item: str) -> StoredItem | None:
        """See `ItemStore.find`; an id of nothing raises `NOT_FOUND`."""
        if is_id(item):
            return await self.item(vault, item)
        found = await self.titled(vault, item)
        if len(found) > 1:
            raise ambiguous("item")
        return await self.item(vault, found[0]) if found else None

    async def item(self, vault: str, item: str) -> StoredItem:
        """An item by its id."""
        return _stored(await self._get(f"/vaults/{vault}/items/{item}"), vault, item)

    async def content(self, item: StoredItem, file: Spot) -> bytes:
        """A file's content."""
        if file.size > MAX_VALUE:
            raise answer_too_long(MAX_VALUE)
        # The path that Connect offers is not used: an answer does not choose where the token goes.
        path = f"/vaults/{item.vault}/items/{item.id}/files/{file.id}/content"
        answer = await self._get(path, most=MAX_VALUE)
        if answer.media_type.partition(";")[0].strip().lower() == "text/html":
            raise unreadable_answer()
        if len(answer.body) != file.size:
            raise unreadable_answer()
        return answer.body

    async def create(self, vault: str, place: ItemPlace, text: str) -> StoredItem:
        """See `ItemStore.create`."""
        made: dict[str, object] = {
            "vault": {"id": vault},
            "title": place.item,
            "category": _CATEGORY,
            "fields": [_new_field(place, text, _NEW_SECTION)],
        }
        if place.section is not None:
            made["sections"] = [{"id": _NEW_SECTION, "label": place.section}]
        answer = await self._send("POST", f"/vaults/{vault}/items", made)
        return await self._once_visible(_stored(answer, vault))

    async def change(self, item: StoredItem, spot: Spot | None, place: ItemPlace, text: str) -> StoredItem:
        """See `ItemStore.change`: a JSON patch of the field alone, so that nothing else of the item is touched."""
        if spot is None:
            section = "" if place.section is None else item.section(place.section)
            operation: dict[str, object] = {"op": "add", "path": "/fields", "value": _new_field(place, text, section)}
        else:
            pointer = spot.id.replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3
            operation = {"op": "replace", "path": f"/fields/{pointer}/value", "value": text}
        answer = await self._send("PATCH", f"/vaults/{item.vault}/items/{item.id}", [operation])
        return await self._once_visible(_stored(answer, item.vault, item.id))

    async def delete(self, vault: str, item: str) -> None:
        """See `ItemStore.delete`."""
        await self._send("DELETE", f"/vaults/{vault}/items/{item}", None)

    async def _once_visible(self, written: StoredItem) -> StoredItem:
        """Wait until the item can be read as written. It is written all the same if that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._visible):
                while not await self._shows(written):  # noqa: ASYNC110  # the event is on another host
                    await asyncio.sleep(_POLL_SECONDS)
        return written

    async def _shows(self, written: StoredItem) -> bool:
        try:
            return (await self.item(written.vault, written.id)).version >= written.version
        except ProviderError as error:
            return error.kind is not FailureKind.NOT_FOUND  # what else is wrong does not end by waiting

    async def _get(self, path: str, query: Mapping[str, str] | None = None, most: int = MAX_ANSWER) -> ConnectAnswer:
        return await self._api.send("GET", f"/v1{path}", token=self._token, query=query or {}, body=None, most=most)

    async def _send(self, method: str, path: str, body: object) -> ConnectAnswer:
        return await self._api.send(method, f"/v1{path}", token=self._token, query={}, body=body, most=MAX_ANSWER)


def _stored(answer: ConnectAnswer, vault: str, item: str | None = None) -> StoredItem:
    """The item of an answer, which must be the one that was asked for."""
    found = read(answer.json, ItemAnswer)
    if item is not None and found.id != item:
        raise unreadable_answer()
    stored = found.stored(vault)
    if stored is None:
        raise no_item()
    return stored


def _new_field(place: ItemPlace, text: str, section: str) -> dict[str, object]:
    made: dict[str, object] = {"label": place.field, "type": "CONCEALED", "value": text}
    return {**made, "section": {"id": section}} if place.section is not None else made
