"""Pages of a list by key: each page begins behind the last row of the one before, however much was added since."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

PAGE: Final = 50
"""How many rows a page shows."""
_CURSOR = re.compile(r"(-?[0-9]{1,16})~([^\x00-\x1f]{0,256})", re.ASCII)
_POSITION = re.compile(r"[0-9]{1,16}", re.ASCII)
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page.

    Args:
        number: what the list is ordered by: a time in ms since the epoch, or a count.
        key: tells rows with the same number apart.
    """

    number: int
    key: str

    @property
    def position(self) -> int | None:
        """The key as a row's position; None if it is none, as in a link that somebody made up."""
        return int(self.key) if _POSITION.fullmatch(self.key) else None

    def __str__(self) -> str:
        return f"{self.number}~{self.key}"

    @classmethod
    def parse(cls, text: str | None) -> "Cursor | None":
        """Read a cursor from a link.

        Returns:
            None for what is no cursor: the list then begins at its beginning.
        """
        found = _CURSOR.fullmatch(text or "")
        return None if found is None else cls(int(found[1]), found[2])


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """One page.

    Args:
        rows: at most as many as were asked for.
        following: where the next page begins; None if this is the last.
    """

    rows: tuple[_Row, ...]
    following: Cursor | None = None


def cut(rows: Sequence[_Row], limit: int, cursor_of: Callable[[_Row], Cursor]) -> Page[_Row]:
    """Make a page of one row more than it shows.

    Args:
        rows: up to `limit` + 1 rows, in order.
        limit: how many the page shows.
        cursor_of: where the page after a row begins.
    """
    shown = tuple(rows[:limit])
    return Page(shown, cursor_of(shown[-1]) if len(rows) > limit else None)
