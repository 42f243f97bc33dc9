"""Items through onepassword-sdk, for writing and for versions; `Any` is the SDK's own, which has no types.

1Password reads `op://` references without regard to case ("Secret reference syntax"), so what is written is looked for
in the same way: else a second item would be made beside the one that is read.
"""

import secrets
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from broker_worker.providers.onepassword_errors import of_item_exception
from broker_worker.providers.onepassword_items import (
    ItemPlace,
    Spot,
    SpotKind,
    StoredItem,
    ambiguous,
    is_id,
    not_found,
    same_name,
)

_BUILT_IN: Final = "credential"
"""The field of an API credential that needs no section; its id is its name."""
_NEW_SECTION: Final = "section"
_ITEMS: Final = 50
"""Items that 1Password gives in one request."""
_T = TypeVar("_T")


class SdkItems:
    """Items of a signed-in client, for the length of one write. It is an `ItemStore`.

    Args:
        client: the SDK's own.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: dict[str, Any] = {}

    async def vault_id(self, name: str) -> str:
        """See `ItemStore.vault_id`."""
        if is_id(name):
            return name
        found = [vault.id for vault in await _asked(self._client.vaults.list()) if _same(vault.title, name)]
        if len(found) > 1:
            raise ambiguous("vault")
        if not found:
            raise not_found("vault")
        return str(found[0])

    async def titled(self, vault: str, title: str) -> Sequence[str]:
        """See `ItemStore.titled`; what is archived does not count."""
        overviews = await _asked(self._client.items.list(vault))
        return [item.id for item in overviews if _same(item.title, title) and item.state.value == "active"]

    async def find(self, vault: str, item: str) -> StoredItem | None:
        """See `ItemStore.find`; an id of nothing raises `NOT_FOUND`."""
        found = [item] if is_id(item) else await self.titled(vault, item)
        if len(found) > 1:
            raise ambiguous("item")
        return self._stored(await _asked(self._client.items.get(vault, found[0]))) if found else None

    async def create(self, vault: str, place: ItemPlace, text: str) -> StoredItem:
        """See `ItemStore.create`."""
        from onepassword.types import (  # type: ignore[import-untyped]  # noqa: PLC0415  # no types; optional, slow
            ItemCategory,
            ItemCreateParams,
            ItemSection,
        )

        section = None if place.section is None else _NEW_SECTION
        made = ItemCreateParams(
            category=ItemCategory.APICREDENTIALS,
            vault_id=vault,
            title=place.item,
            fields=[_new_field(place.field, text, section)],
            sections=None if section is None else [ItemSection(id=section, title=place.section)],
        )
        return self._stored(await _asked(self._client.items.create(made)))

    async def change(self, item: StoredItem, spot: Spot | None, place: ItemPlace, text: str) -> StoredItem:
        """See `ItemStore.change`. 1Password takes the item only if its version is the one that was read."""
        changed = self._seen[item.id].model_copy(deep=True)
        if spot is None:
            section = None if place.section is None else item.section(place.section)
            changed.fields.append(_new_field(place.field, text, section))
        else:
            next(field for field in changed.fields if field.id == spot.id).value = text
        return self._stored(await _asked(self._client.items.put(changed)))

    async def delete(self, vault: str, item: str) -> None:
        """See `ItemStore.delete`."""
        await _asked(self._client.items.delete(vault, item))

    def _stored(self, item: Any) -> StoredItem:
        self._seen[item.id] = item
        fields = [Spot(each.id, each.title, each.section_id or "", each.value) for each in item.fields]
        files = [
            Spot(each.attributes.id, each.attributes.name, each.section_id, kind=SpotKind.FILE) for each in item.files
        ]
        sections = {section.id: section.title for section in item.sections}
        return StoredItem(item.vault_id, item.id, item.version, sections, (*fields, *files), any_case=True)


async def versions_of(client: Any, secrets_by_ref: Mapping[str, Any]) -> Mapping[str, str]:
    """The versions of the items that resolved secrets are from.

    The two are asked one after the other, so a version counts only if the item still has the value in a field.

    Args:
        client: the SDK's own.
        secrets_by_ref: what references were resolved to.

    Raises:
        Exception: whatever the SDK raises.
    """
    by_vault: dict[str, dict[str, None]] = {}
    for secret in secrets_by_ref.values():
        by_vault.setdefault(secret.vault_id, {})[secret.item_id] = None
    items: dict[str, Any] = {}
    for vault, found in by_vault.items():
        ids = list(found)
        for start in range(0, len(ids), _ITEMS):
            responses = (await client.items.get_all(vault, ids[start : start + _ITEMS])).individual_responses
            items |= {each.content.id: each.content for each in responses if each.content is not None}
    return {
        ref: str(items[secret.item_id].version)
        for ref, secret in secrets_by_ref.items()
        if secret.item_id in items and secret.secret in _values(items[secret.item_id].fields)
    }


def _same(one: str, other: str) -> bool:
    return same_name(one, other, any_case=True)


def _values(fields: Iterable[Any]) -> set[str]:
    return {field.value for field in fields}


def _new_field(title: str, text: str, section: str | None) -> Any:
    from onepassword.types import ItemField, ItemFieldType  # noqa: PLC0415  # optional, slow

    field_id = title if section is None and title == _BUILT_IN else secrets.token_hex(13)
    return ItemField(id=field_id, title=title, section_id=section, field_type=ItemFieldType.CONCEALED, value=text)


async def _asked(call: Awaitable[_T]) -> _T:
    """What a call of the SDK gives, or what its failure means."""
    try:
        return await call
    except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
        failure = of_item_exception(error)
    raise failure
