"""Typed look-ups in a YAML tree: whatever is missing, unknown or of the wrong kind is an error with file and line."""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TypeVar

from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.files.yaml_reader import Kind, MappingNode, Node, Scalar, Sequence

_SHOWN = 64
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_T = TypeVar("_T")


class Value:
    """One value of a file.

    Args:
        node: the value.
        file: the file's path, for errors.
        origin: the file's short name, for audit records.
        what: what it is, for errors.
        private: whether errors must not repeat it, because a secret may have been pasted there.
    """

    __slots__ = ("_file", "_node", "_origin", "_private", "_what")

    def __init__(self, node: Node, *, file: str, origin: str, what: str, private: bool = False) -> None:
        self._node = node
        self._file = file
        self._origin = origin
        self._what = what
        self._private = private

    @property
    def origin(self) -> Origin:
        """Where it stands."""
        return Origin(self._origin, self._node.line)

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self._node, MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self._node, Sequence)

    @property
    def is_number(self) -> bool:
        """Whether YAML takes it for a number."""
        return isinstance(self._node, Scalar) and self._node.kind is Kind.NUMBER

    @property
    def is_boolean(self) -> bool:
        """Whether YAML takes it for a boolean."""
        return isinstance(self._node, Scalar) and self._node.kind is Kind.BOOLEAN

    @property
    def raw(self) -> str | None:
        """The characters of a scalar, whatever YAML takes it for; None of a list, a mapping or nothing."""
        if isinstance(self._node, Scalar) and self._node.kind is not Kind.NOTHING:
            return self._node.text
        return None

    def error(self, message: str, hint: str = "", line: int = 0) -> ConfigError:
        """An error about this value, to be raised."""
        return ConfigError(f"{self._what}: {message}", file=self._file, line=line or self._node.line, hint=hint)

    def expected(self, expected: str, hint: str = "") -> ConfigError:
        """An error that says what was found and what was expected."""
        return self.error(f"found {self._found()}, expected {expected}", hint)

    def _found(self) -> str:
        if isinstance(self._node, Sequence):
            return "a list"
        if isinstance(self._node, MappingNode):
            return "a mapping"
        if self._node.kind is Kind.NOTHING:
            return "nothing"
        if self._private:
            return f"a {self._node.kind}"
        text = self._node.text if len(self._node.text) <= _SHOWN else self._node.text[:_SHOWN] + "…"
        return f"`{text}`" if self._node.kind is Kind.TEXT else f"`{text}`, which YAML takes for a {self._node.kind}"

    def text(self, expected: str = "a text") -> str:
        """A text that is not empty."""
        if not isinstance(self._node, Scalar) or self._node.kind is not Kind.TEXT or not self._node.text:
            is_word = isinstance(self._node, Scalar) and self._node.kind not in {Kind.NOTHING, Kind.TEXT}
            raise self.expected(expected, "put it in quotes" if is_word else "")
        return self._node.text

    def name(self, check: Callable[[str], str]) -> str:
        """A name that passes `check` (one of `agent_sdk.wire.names`)."""
        text = self.text("a name")
        try:
            return check(text)
        except WireError as error:
            raise self.error("is not a valid name" if self._private else str(error)) from None

    def integer(self, least: int, most: int) -> int:
        """A whole number within bounds, in decimal digits."""
        text = self.raw
        if self.is_number and text is not None and _DECIMAL.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        raise self.expected(f"a whole number from {least} to {most}")

    def boolean(self) -> bool:
        """`true` or `false`."""
        if self.is_boolean and self.raw in {"true", "false"}:
            return self.raw == "true"
        raise self.expected("true or false")

    def choice(self, *words: str, hint: str = "") -> str:
        """One of a few words."""
        text = self.raw
        if text is None or text not in words:
            expected = " or ".join(f"`{word}`" for word in words)
            raise self.expected(expected, hint or nearest(text or "", words))
        return text

    def parsed(self, parse: Callable[[str], _T]) -> _T:
        """A scalar read by a function that raises ValueError with what it expected."""
        text = self.raw
        try:
            return parse("" if text is None else text)
        except ValueError as error:
            raise self.error(f"found {self._found()}, {error}") from None

    def items(self, hint: str = "") -> "Iterator[Value]":
        """The entries of a list."""
        if not isinstance(self._node, Sequence):
            raise self.expected("a list", hint or "write `[]` for an empty one")
        for node in self._node.items:
            yield Value(
                node, file=self._file, origin=self._origin, what=f"entry of {self._what}", private=self._private
            )

    def section(self, *known: str, hint: str = "") -> "Section":
        """A mapping whose keys are all in `known`; without `known`, of names that the operator chooses."""
        if not isinstance(self._node, MappingNode):
            raise self.expected("a mapping", hint or "write `{}` for an empty one")
        section = Section(self._node, file=self._file, origin=self._origin, what=self._what, private=self._private)
        if known:
            section.refuse_unknown(known)
        return section


class Section(Value):
    """A mapping of a file."""

    __slots__ = ("_entries",)

    def __init__(self, node: MappingNode, *, file: str, origin: str, what: str, private: bool = False) -> None:
        super().__init__(node, file=file, origin=origin, what=what, private=private)
        self._entries = node.entries

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def origin_of(self, key: str) -> Origin:
        """Where a key that is there stands."""
        return Origin(self._origin, self._entries[key][0])

    def get(self, key: str, *, what: str = "", private: bool | None = None) -> Value | None:
        """The value of a key; None if the key is not there.

        Args:
            key: the key.
            what: what it is, for errors; the key itself by default.
            private: whether errors must not repeat the value; as for the section by default.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        hidden = self._private if private is None else private
        return Value(entry[1], file=self._file, origin=self._origin, what=what or f"`{key}`", private=hidden)

    def require(self, key: str, *, why: str = "", private: bool | None = None) -> Value:
        """The value of a key that must be there."""
        value = self.get(key, private=private)
        if value is None:
            raise self.error(f"the key `{key}` is missing", why)
        return value

    def key(self, key: str, check: Callable[[str], str]) -> str:
        """A key that must be a name that passes `check`."""
        line = self._entries[key][0]
        try:
            return check(key)
        except WireError as error:
            raise self.error(str(error), line=line) from None

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        """Refuse every key that is not in `known`."""
        for key, (line, _) in self._entries.items():
            if key not in known:
                raise self.error(f"unknown key `{key[:_SHOWN]}`", nearest(key, known), line)

    def refuse_both(self, one: str, other: str) -> None:
        """Refuse two keys that mean the same."""
        if one in self and other in self:
            line = max(self._entries[one][0], self._entries[other][0])
            raise self.error(f"`{one}` and `{other}` both stand here", "keep one of the two", line)


def nearest(word: str, known: tuple[str, ...]) -> str:
    """A hint that names the nearest known word, or all of them if none is near."""
    near = get_close_matches(word[:_SHOWN], known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
