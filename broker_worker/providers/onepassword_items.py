"""What a reference names inside 1Password, and finding it in an item: for both ways to 1Password, SDK and Connect.

Names are compared as written, or without regard to case where reading does so too. Whatever fits twice is refused,
never chosen from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError

_ID = re.compile(r"[0-9a-z]{26}", re.ASCII)
_COMPARE: Final = "compare the reference in secrets.yaml with 1Password"
_USE_IDS: Final = "use the unique ids in place of the names, or name the section"


def is_id(text: str) -> bool:
    """Whether a part of a reference is a unique id of a vault or an item: 26 lower-case letters and digits."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """A place in 1Password: each part is a name or a unique id.

    Args:
        vault: the vault.
        item: the item.
        section: the section of the item; None if the reference names none.
        field: the field, or the attached file.
    """

    vault: str
    item: str
    section: str | None
    field: str

    @classmethod
    def of(cls, path: str) -> "ItemPlace":
        """The place that a reference's checked part behind `://` names.

        Raises:
            ProviderError: kind `BAD_REFERENCE` if it ends in a query, which names no place.
        """
        if "?" in path:
            raise ProviderError(
                FailureKind.BAD_REFERENCE, "the reference names an attribute of a field", hint="name the field itself"
            )
        vault, item, *rest = path.split("/")
        return cls(vault, item, rest[0] if len(rest) == 2 else None, rest[-1])


class SpotKind(Enum):
    """What holds a value in an item."""

    FIELD = "field"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Spot:
    """A field of an item, or a file attached to it.

    Args:
        id: its unique id within the item.
        label: its name.
        section: the id of its section; empty if it is in none.
        value: a field's value, empty if it has none; never shown by `repr`.
        kind: field or file.
        size: a file's size in bytes.
    """

    id: str
    label: str
    section: str = ""
    value: str = field(default="", repr=False)
    kind: SpotKind = SpotKind.FIELD
    size: int = 0


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as 1Password gave it.

    Args:
        vault: its vault's unique id.
        id: its unique id.
        version: counted up with every change of the item.
        sections: label by id.
        spots: fields and files.
        any_case: whether names in other letters are the same names.
    """

    vault: str
    id: str
    version: int
    sections: Mapping[str, str]
    spots: Sequence[Spot]
    any_case: bool = False

    def find(self, place: ItemPlace) -> Spot | None:
        """The field or file that a place names; None if there is none.

        A place without a section means what is in no section; only if there is nothing, it means any section.

        Raises:
            ProviderError: kind `AMBIGUOUS` if there are several; `NOT_FOUND` if the item has no such section.
        """
        named = [spot for spot in self.spots if self._is(place.field, spot.id, spot.label)]
        if place.section is not None:
            section = self.section(place.section)
            named = [spot for spot in named if spot.section == section]
        else:
            named = [spot for spot in named if not spot.section] or named
        if len(named) > 1:
            raise ambiguous("field or file")
        return named[0] if named else None

    def section(self, name: str) -> str:
        """The id of the section that a name or an id means.

        Raises:
            ProviderError: kind `NOT_FOUND` or `AMBIGUOUS`.
        """
        found = [known for known, label in self.sections.items() if self._is(name, known, label)]
        if not found:
            raise not_found("section of the item")
        if len(found) > 1:
            raise ambiguous("section")
        return found[0]

    def _is(self, name: str, *known: str) -> bool:
        return any(same_name(name, each, any_case=self.any_case) for each in known)


def same_name(one: str, other: str, *, any_case: bool) -> bool:
    """Whether two names are the same."""
    return one.casefold() == other.casefold() if any_case else one == other


def text_of(value: bytes) -> str:
    """The text that a field is to hold.

    Raises:
        ProviderError: kind `TOO_LARGE`; `UNKNOWN` if it is empty or no text. The value is not repeated.
    """
    if len(value) > MAX_VALUE:
        raise ProviderError(FailureKind.TOO_LARGE, f"the value has {len(value)} bytes; at most {MAX_VALUE} are allowed")
    text = value.decode("utf-8", "replace")
    if not value or text.encode() != value:
        raise ProviderError(
            FailureKind.UNKNOWN,
            "the value is no text" if value else "the value is empty",
            hint="fields of 1Password hold text: encode it, for example in base64"
            if value
            else "give at least one byte",
        )
    return text


def value_of(text: str) -> bytes:
    """A field's value as it is handed on.

    Raises:
        ProviderError: kind `NOT_FOUND` if it is empty, `TOO_LARGE` if it is too long.
    """
    value = text.encode("utf-8", "surrogatepass")
    if not value:
        raise ProviderError(FailureKind.NOT_FOUND, "the field is empty", hint="fill it in in 1Password")
    if len(value) > MAX_VALUE:
        raise ProviderError(FailureKind.TOO_LARGE, f"the value has {len(value)} bytes; at most {MAX_VALUE} are allowed")
    return value


def not_found(what: str) -> ProviderError:
    """The error for a part of a reference that names nothing."""
    return ProviderError(FailureKind.NOT_FOUND, f"no {what} matches the reference", hint=_COMPARE)


def ambiguous(what: str) -> ProviderError:
    """The error for a part of a reference that names more than one thing."""
    return ProviderError(FailureKind.AMBIGUOUS, f"more than one {what} matches the reference", hint=_USE_IDS)
