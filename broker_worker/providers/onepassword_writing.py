"""Writing one value into 1Password, the same by SDK and by Connect.

1Password has no "create if there is none": it takes two items of one title. And Connect takes a change without asking
which version it is meant for. So a write reads first and looks afterwards at what came of it: a second item is taken
away again, a change in between is reported. Within a process writes wait for each other, so there the check and the
write are one step.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.onepassword_items import ItemPlace, Spot, SpotKind, StoredItem

_ATTEMPTS: Final = 3
"""How often a write may find that somebody else writes into the same vault."""
_UNCERTAIN: Final = frozenset({FailureKind.TIMEOUT, FailureKind.UNREACHABLE, FailureKind.UNKNOWN})
_READ_AGAIN: Final = "read its version, and write only if that is still meant"
_LOOK: Final = "look at the item in 1Password"
_T = TypeVar("_T")


class ItemStore(Protocol):
    """Items of 1Password, as a writer needs them. All of it raises `ProviderError`."""

    async def vault_id(self, name: str) -> str:
        """The id of the vault that a name or an id means."""
        ...

    async def find(self, vault: str, item: str) -> StoredItem | None:
        """The item that a title or an id means; None if there is none of this title."""
        ...

    async def create(self, vault: str, place: ItemPlace, text: str) -> StoredItem:
        """Make an item with one field, and the field's section if it names one; return it once it can be read."""
        ...

    async def change(self, item: StoredItem, spot: Spot | None, place: ItemPlace, text: str) -> StoredItem:
        """Set a field of an item, or add it where `spot` is None; return the item once the change can be read."""
        ...

    async def titled(self, vault: str, title: str) -> Sequence[str]:
        """The ids of all items of this title."""
        ...

    async def delete(self, vault: str, item: str) -> None:
        """Remove an item."""
        ...


@dataclass(frozen=True, slots=True)
class _Target:
    vault: str
    item: StoredItem | None
    spot: Spot | None


class ItemWriter:
    """Writes one value at a time.

    Args:
        timeout_seconds: how long a write may take once it is its turn, looking and trying again included.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._one_at_a_time = asyncio.Lock()

    async def write(self, store: ItemStore, place: ItemPlace, text: str, expected: str | None) -> str:
        """Store a value; see `ports.Provider.put`.

        Args:
            store: the items.
            place: the field. An item or a field that is missing is made; a vault, or a section of an item that is
                there, is not.
            text: the value.
            expected: what the place must hold.

        Returns:
            The item's new version.

        Raises:
            ProviderError: nothing was written, or the message says that this is not known.
        """
        async with self._one_at_a_time:
            ends = asyncio.get_running_loop().time() + self._timeout
            for attempt in range(1, _ATTEMPTS + 1):
                target = await self._until(ends, _look(store, place, expected))
                try:
                    return await self._until(ends, _store(store, target, place, text, strict=expected is not None))
                except ProviderError as error:
                    failure = error
                if failure.kind is not FailureKind.CONFLICT or attempt == _ATTEMPTS:
                    break
        if failure.kind in _UNCERTAIN:
            message = f"{failure}; whether the value was written is not known"
            raise ProviderError(failure.kind, message, retry_after=failure.retry_after, hint=failure.hint or _LOOK)
        raise failure

    async def _until(self, ends: float, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout_at(ends):
                return await work
        except TimeoutError:
            pass
        raise ProviderError(
            FailureKind.TIMEOUT, f"1Password did not answer within {self._timeout:g} s", hint="is it slow, or away?"
        )


async def _look(store: ItemStore, place: ItemPlace, expected: str | None) -> _Target:
    """Find the place, and check that it may be written and holds what is expected."""
    vault = await store.vault_id(place.vault)
    item = await store.find(vault, place.item)
    if item is None:
        check_expected(None, expected)
        return _Target(vault, None, None)
    spot = item.find(place)
    if spot is not None and spot.kind is SpotKind.FILE:
        raise ProviderError(
            FailureKind.READ_ONLY, "the reference names a file, and files are not written", hint="name a field"
        )
    check_expected(str(item.version) if spot is not None and spot.value else None, expected)
    return _Target(vault, item, spot)


async def _store(store: ItemStore, target: _Target, place: ItemPlace, text: str, *, strict: bool) -> str:
    """Write, and check what came of it."""
    if target.item is None:
        made = await store.create(target.vault, place, text)
        if set(await store.titled(target.vault, place.item)) - {made.id}:
            await store.delete(target.vault, made.id)
            raise ProviderError(
                FailureKind.CONFLICT, "another writer made an item of this title at the same moment", hint=_READ_AGAIN
            )
        _confirm(made, place, text)
        return str(made.version)
    changed = await store.change(target.item, target.spot, place, text)
    _confirm(changed, place, text)
    before = target.item.version
    is_the_same = target.spot is not None and target.spot.value == text  # which may count as no change
    if changed.version < (before if is_the_same else before + 1):
        raise ProviderError(FailureKind.UNKNOWN, "1Password does not count what was written as a change", hint=_LOOK)
    if (strict or target.spot is None) and changed.version > before + 1:
        raise ProviderError(FailureKind.UNKNOWN, "another writer changed the item at the same moment", hint=_LOOK)
    return str(changed.version)


def _confirm(item: StoredItem, place: ItemPlace, text: str) -> None:
    spot = item.find(place)
    if spot is None or spot.value != text:
        raise ProviderError(FailureKind.UNKNOWN, "1Password holds another value than was written", hint=_LOOK)


def check_expected(current: str | None, expected: str | None) -> None:
    """Check that a place holds what a writer expects; see `ports.Provider.put`.

    Args:
        current: the version of what it holds; None if it holds nothing.
        expected: as the writer said.

    Raises:
        ProviderError: kind `CONFLICT` if it does not.
    """
    if expected is None or expected == (current or ""):
        return
    if current is None:
        found = "the place holds nothing, and a version was expected"
    elif not expected:
        found = "the place holds a value already"
    else:
        found = "the item has another version by now"
    raise ProviderError(FailureKind.CONFLICT, found, hint=_READ_AGAIN)
