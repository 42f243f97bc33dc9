"""Templates with references: `{{ secret://openai.api_key }}` stands for a value."""

import re
from collections.abc import Mapping
from typing import Final

from agent_sdk.errors import InvalidRequest
from agent_sdk.wire.names import is_secret_name

MAX_TEMPLATE: Final = 8 * 1024 * 1024
"""Longest template, in bytes."""

_OPENED: Final = re.compile(rb"\{\{[ \t]*secret://")
_REST: Final = re.compile(rb"([^\s{}]{0,256})[ \t]*\}\}")


class Template:
    """A text, of any encoding that has ASCII's letters, with places for values.

    Other braces are somebody else's and stay. What a value holds is not looked at again.

    Args:
        text: its bytes.
        shown: its name in messages.

    Raises:
        InvalidRequest: if something begins as a reference and is none, with line and column.
    """

    def __init__(self, text: bytes, shown: str) -> None:
        self._parts: list[tuple[bytes, str]] = []
        """For each reference what stands before it, and the name."""
        at = 0
        while opened := _OPENED.search(text, at):
            rest = _REST.match(text, opened.end())
            name = rest[1].decode("ascii", "replace") if rest else ""
            if rest is None or not is_secret_name(name):
                raise InvalidRequest(
                    f"{_place(text, opened.start(), shown)}: expected {{{{ secret://NAME }}}}, with a secret's name "
                    "and both braces at its end on the same line"
                )
            self._parts.append((text[at : opened.start()], name))
            at = rest.end()
        self._end = text[at:]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it refers to, each once."""
        return tuple(dict.fromkeys(name for _, name in self._parts))

    def filled(self, values: Mapping[str, bytes]) -> bytes:
        """The text with its values.

        Args:
            values: for each of `names`, the value.
        """
        return b"".join(piece for before, name in self._parts for piece in (before, values[name])) + self._end


def _place(text: bytes, offset: int, shown: str) -> str:
    line = text.count(b"\n", 0, offset) + 1
    column = offset - (text.rfind(b"\n", 0, offset) + 1) + 1
    return f"{shown}:{line}:{column}"
