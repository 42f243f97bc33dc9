"""Items in the JSON protocol of 1Password's native library: a stand-in for an account that can be written."""

import json
import random
from collections.abc import Callable
from typing import Any

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_TIME = "2026-01-01T00:00:00Z"


class NativeError(Exception):
    """As the native library raises it: all that is known is in `msg`, JSON or not."""

    def __init__(self, msg: str) -> None:
        super().__init__(f"msg={msg!r}")
        self.msg = msg


def native_error(message: str, name: str = "Internal") -> NativeError:
    """An error as the library words it."""
    return NativeError(json.dumps({"name": name, "message": message}))


def new_id() -> str:
    """A unique id as 1Password makes them."""
    return "".join(random.choices(_LETTERS, k=26))  # an id, no secret


class FakeItems:
    """Vaults and items; an item is kept as the library shows it."""

    def __init__(self) -> None:
        self.vaults: dict[str, str] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.failure: Callable[[str], Exception | None] = lambda name: None
        self.before: Callable[[str], None] = lambda name: None

    def add(self, vault: str, title: str, fields: dict[str, str], **more: object) -> dict[str, Any]:
        """Add an item of fields by title, in a vault by title that is made if there is none."""
        if vault not in self.vaults.values():
            self.vaults[new_id()] = vault
        vault_id = next(known for known, name in self.vaults.items() if name == vault)
        made = [{"id": new_id(), "title": k, "fieldType": "Concealed", "value": v} for k, v in fields.items()]
        return self._store({"title": title, "category": "ApiCredentials", "vaultId": vault_id, "fields": made, **more})

    def resolve(self, ref: str) -> dict[str, object] | None:
        """The library's response for a reference of names; None if it names nothing."""
        vault, item, *_, field = ref.removeprefix("op://").split("/")
        for each in self.items.values():
            if self.vaults[each["vaultId"]] == vault and each["title"] == item:
                for known in each["fields"]:
                    if known["title"] == field:
                        content = {"secret": known["value"], "itemId": each["id"], "vaultId": each["vaultId"]}
                        return {"content": content}
        return None

    def invoke(self, name: str, parameters: dict[str, Any]) -> str:
        """An operation on vaults or items."""
        self.calls.append(name)
        self.before(name)
        failure = self.failure(name)
        if failure is not None:
            raise failure
        return json.dumps(getattr(self, f"_{name}")(**parameters))

    def _VaultsList(self, params: None) -> list[dict[str, object]]:  # noqa: N802  # the library's name
        rest = {"description": "", "vaultType": "userCreated", "activeItemCount": 1, "createdAt": _TIME}
        rest |= {"contentVersion": 1, "attributeVersion": 1, "updatedAt": _TIME}
        return [{"id": known, "title": title, **rest} for known, title in self.vaults.items()]

    def _ItemsList(self, vault_id: str, filters: list[object]) -> list[dict[str, object]]:  # noqa: N802  # the library's name
        shown = ("id", "title", "category", "vaultId", "websites", "tags", "createdAt", "updatedAt")
        found = [item for item in self.items.values() if item["vaultId"] == vault_id]
        return [{"state": "active", **{key: item[key] for key in shown}} for item in found]

    def _ItemsGet(self, vault_id: str, item_id: str) -> dict[str, Any]:  # noqa: N802  # the library's name
        if item_id not in self.items or self.items[item_id]["vaultId"] != vault_id:
            raise native_error("resource not found: performing an item operation")
        return self.items[item_id]

    def _ItemsGetAll(self, vault_id: str, item_ids: list[str]) -> dict[str, object]:  # noqa: N802  # the library's name
        assert len(item_ids) <= 50
        found = [self.items.get(item_id) for item_id in item_ids]
        missing = {"error": {"type": "itemNotFound"}}
        return {"individualResponses": [{"content": item} if item else missing for item in found]}

    def _ItemsCreate(self, params: dict[str, Any]) -> dict[str, Any]:  # noqa: N802  # the library's name
        return self._store({key: value for key, value in params.items() if value is not None})

    def _ItemsPut(self, item: dict[str, Any]) -> dict[str, Any]:  # noqa: N802  # the library's name
        if item["version"] != self.items[item["id"]]["version"]:
            raise native_error("data conflict occurred on the server: performing a vault operation")
        self.items[item["id"]] = {**item, "version": item["version"] + 1}
        return self.items[item["id"]]

    def _ItemsDelete(self, vault_id: str, item_id: str) -> None:  # noqa: N802  # the library's name
        del self.items[item_id]

    def _store(self, item: dict[str, Any]) -> dict[str, Any]:
        empty: dict[str, Any] = {"sections": [], "notes": "", "tags": [], "websites": [], "files": []}
        made = {"id": new_id(), "version": 1, "createdAt": _TIME, "updatedAt": _TIME, **empty, **item}
        self.items[made["id"]] = made
        return made
