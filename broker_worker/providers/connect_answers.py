"""What a Connect server answers, as far as it is read, and nothing else: strict in types, deaf to what is new.

Source: the OpenAPI description of "1Password Connect Server API reference", version 1.8.
"""

from typing import Annotated, Final, TypeVar

import msgspec

from broker_worker.providers.connect_errors import unreadable_answer
from broker_worker.providers.onepassword_items import Spot, SpotKind, StoredItem

Id = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-z]{26}\Z")]
FileId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z_-]{1,64}\Z")]
_GONE: Final = frozenset({"ARCHIVED", "DELETED"})
_T = TypeVar("_T")


class _Answer(msgspec.Struct, frozen=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"  # msgspec's own would show values


class VaultAnswer(_Answer, frozen=True):
    """A vault of a list."""

    id: Id
    name: str = ""


class ItemSummary(_Answer, frozen=True):
    """An item of a list: without fields."""

    id: Id
    title: str = ""
    state: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it is archived or deleted."""
        return self.state in _GONE


class SectionReference(_Answer, frozen=True):
    """The section that a field or a file is in."""

    id: str = ""


class SectionAnswer(_Answer, frozen=True):
    """A section of an item."""

    id: str
    label: str | None = None


class FieldAnswer(_Answer, frozen=True):
    """A field of an item."""

    id: str
    label: str | None = None
    value: str | None = None
    section: SectionReference | None = None


class FileAnswer(_Answer, frozen=True):
    """A file attached to an item: without its content."""

    id: FileId
    size: Annotated[int, msgspec.Meta(ge=0)]
    name: str | None = None
    section: SectionReference | None = None


class ItemAnswer(_Answer, frozen=True):
    """An item with all that it has."""

    id: Id
    version: Annotated[int, msgspec.Meta(ge=0)]
    state: str | None = None
    sections: list[SectionAnswer] | None = None
    fields: list[FieldAnswer] | None = None
    files: list[FileAnswer] | None = None

    def stored(self, vault: str) -> StoredItem | None:
        """The item as it is searched; None if it is archived or deleted.

        Args:
            vault: the id of its vault.
        """
        if self.state in _GONE:
            return None
        fields = [
            Spot(each.id, each.label or "", each.section.id if each.section else "", each.value or "")
            for each in self.fields or ()
        ]
        files = [
            Spot(each.id, each.name or "", each.section.id if each.section else "", kind=SpotKind.FILE, size=each.size)
            for each in self.files or ()
        ]
        sections = {each.id: each.label or "" for each in self.sections or ()}
        return StoredItem(vault, self.id, self.version, sections, (*fields, *files))


class Dependency(_Answer, frozen=True):
    """Something that Connect needs."""

    service: str = ""
    status: str = ""


class HealthAnswer(_Answer, frozen=True):
    """How Connect is."""

    name: str
    version: str
    dependencies: list[Dependency] | None = None


class ErrorAnswer(_Answer, frozen=True):
    """What Connect says beside a status."""

    status: int
    message: str = ""


def read(body: bytes, form: type[_T]) -> _T:
    """Read an answer.

    Args:
        body: JSON.
        form: what it is expected to be.

    Raises:
        ProviderError: kind `UNKNOWN` for anything else; nothing of it is repeated.
    """
    found = _decoded(body, form)
    if found is None:
        raise unreadable_answer()
    return found


def message_of(body: bytes) -> str:
    """Connect's own text in the answer of a failure; empty if that is not of Connect's form."""
    found = _decoded(body, ErrorAnswer)
    return "" if found is None else found.message


def _decoded(body: bytes, form: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # its text may repeat what was sent
        return None
