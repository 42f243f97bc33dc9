"""YAML for people: a strict, bounded subset, in which every value knows its line.

The reader works on the parser's events and builds a tree of its own. What makes YAML surprising or dangerous is
refused: anchors and aliases (a few lines that expand to gigabytes), tags (they make objects), merge keys, several
documents, directives, duplicate keys, keys that are not text. A plain scalar that YAML 1.1 takes for a boolean, a
number or a date keeps its text and says what it is, so that `on` or `1.10` is never mistaken for a name, nor the
other way round.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeAlias

import yaml
from yaml.resolver import Resolver

from broker_worker.core.errors import ConfigError

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML built without libyaml reads the same, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]  # the same interface, in Python

MAX_BYTES = 1024 * 1024
"""Largest file, in bytes."""
MAX_DEPTH = 16
"""Deepest nesting of lists and mappings."""


class Kind(StrEnum):
    """What YAML 1.1 takes a scalar for. Quoted scalars are always text."""

    TEXT = "text"
    BOOLEAN = "boolean"
    NUMBER = "number"
    DATE = "date"
    NOTHING = "nothing"
    MERGE = "merge"


_KINDS = {"bool": Kind.BOOLEAN, "int": Kind.NUMBER, "float": Kind.NUMBER, "timestamp": Kind.DATE}
_KINDS |= {"null": Kind.NOTHING, "merge": Kind.MERGE}
_RESOLVER = Resolver()
_ANCHOR_HINT = "write the entries out, or use a role; a text that begins with & or * needs quotes"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as written.

    Args:
        line: where it stands, from 1.
        text: its characters, quotes and escapes resolved; always printable, on one line.
        kind: what YAML takes it for.
    """

    line: int
    text: str = field(repr=False)
    kind: Kind


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list; `line` is where it begins."""

    line: int
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping with the line of each key; `line` is where it begins."""

    line: int
    entries: "Mapping[str, tuple[int, Node]]"


Node: TypeAlias = Scalar | Sequence | MappingNode


def read_yaml(path: Path) -> MappingNode:
    """Read a file.

    Args:
        path: the file, UTF-8 with or without a byte order mark, at most 1 MiB.

    Returns:
        Its one document, which must be a mapping.

    Raises:
        ConfigError: with file and line, for anything that cannot be read or is outside the subset.
    """
    file = str(path)
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(kind, file=file, hint="expected a YAML file; `secret-broker init` makes commented ones")
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "give the broker's user the right to read it"
        raise ConfigError(f"cannot be read: {error.strerror or 'not a file name'}", file=file, hint=hint) from None
    except ValueError:
        raise ConfigError("cannot be read: not a file name", file=file) from None
    return parse_yaml(raw, file)


def parse_yaml(raw: bytes, file: str) -> MappingNode:
    """Parse the content of a file; see `read_yaml`.

    Args:
        raw: the content.
        file: the file's name in errors.
    """
    text = _decode(raw, file)
    _refuse_invisible(text, file)
    try:
        tree = _Builder(file).build(yaml.parse(text, Loader=_Loader))
    except yaml.YAMLError as error:
        _refuse_syntax(error, text, file)
    except (ValueError, OverflowError):
        # The pure-Python scanner lets these through for an escape such as "\UFFFFFFFF".
        raise ConfigError("not valid YAML: an escape names no character", file=file) from None
    if isinstance(tree, MappingNode):
        return tree
    if tree is None or (isinstance(tree, Scalar) and tree.kind is Kind.NOTHING):
        raise ConfigError(
            "is empty", file=file, hint="an empty file would deny everything by accident: write what you mean"
        )
    raise ConfigError("expected `key: value` lines at the top of the file", file=file, line=tree.line)


def _decode(raw: bytes, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", file=file, hint="use roles and patterns, or split the file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8", file=file, line=line, hint="save the file as UTF-8") from None


def _refuse_invisible(text: str, file: str) -> None:
    """Refuse tabs, and characters that make a file read differently from how it looks.

    YAML ends a comment at U+2028, and a bidirectional override shows a reviewer another order than the parser sees.
    """
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.isprintable():
            found = next(character for character in line if not character.isprintable())
            if found == "\t":
                raise ConfigError("a tab", file=file, line=number, hint="use spaces, also in comments")
            message = f"an invisible character, U+{ord(found):04X}"
            raise ConfigError(message, file=file, line=number, hint="remove it, or use an ordinary space or line break")


def _refuse_syntax(error: yaml.YAMLError, text: str, file: str) -> NoReturn:
    """Say what the parser found in our words; its own may repeat the file's text."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "a character that YAML does not allow"
    context = getattr(error, "context", None) or ""
    line = 0 if mark is None else min(mark.line, text.count("\n")) + 1
    hint = "check the indentation, quotes and colons here and in the lines above"
    if "an anchor" in context or "an alias" in context:
        problem, hint = "an anchor or alias (& or *)", _ANCHOR_HINT
    raise ConfigError(f"not valid YAML: {problem}", file=file, line=line, hint=hint) from None


@dataclass(slots=True)
class _Open:
    """A list or a mapping that is not closed yet."""

    line: int
    items: list[Node] | None
    entries: dict[str, tuple[int, Node]] = field(default_factory=dict)
    key: tuple[int, str] | None = None


class _Builder:
    """Builds the tree from events, without recursion, and stops at the first thing that is refused."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Open] = []
        self._root: Node | None = None
        self._documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Node | None:
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            if isinstance(event, yaml.ScalarEvent):
                self._add(self._scalar(event, line))
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
            elif isinstance(event, yaml.AliasEvent):
                self._refuse_anchor(line)
            elif isinstance(event, yaml.DocumentStartEvent):
                self._begin_document(event, line)
        return self._root

    def _begin_document(self, event: yaml.DocumentStartEvent, line: int) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse("a second document begins here", line, "remove the line `---` and what stands twice")
        if event.version is not None or event.tags:
            self._refuse("a directive (a line that begins with %)", line, "remove it")

    def _begin(self, event: "yaml.SequenceStartEvent | yaml.MappingStartEvent", line: int) -> None:
        self._check_plainness(event, line)
        if len(self._open) >= MAX_DEPTH:
            self._refuse(
                f"nested deeper than {MAX_DEPTH} levels", line, "no configuration needs that: check the brackets"
            )
        if self._awaits_key():
            self._refuse("a list or mapping stands where a key was expected", line, "write `key: value`")
        self._open.append(_Open(line, [] if isinstance(event, yaml.SequenceStartEvent) else None))

    def _end(self) -> None:
        done = self._open.pop()
        if done.items is not None:
            self._add(Sequence(done.line, tuple(done.items)))
        else:
            self._add(MappingNode(done.line, done.entries))

    def _awaits_key(self) -> bool:
        return bool(self._open) and self._open[-1].items is None and self._open[-1].key is None

    def _add(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if parent.items is not None:
            parent.items.append(node)
        elif parent.key is None:
            assert isinstance(node, Scalar)
            parent.key = self._key(node, parent)
        else:
            line, key = parent.key
            parent.entries[key] = (line, node)
            parent.key = None

    def _key(self, node: Scalar, parent: _Open) -> tuple[int, str]:
        if node.kind is Kind.MERGE:
            self._refuse("a merge key `<<`", node.line, "write the entries out, or use a role")
        if node.kind is not Kind.TEXT or not node.text:
            found = f"`{node.text[:64]}`, which YAML takes for a {node.kind}," if node.text else "nothing"
            self._refuse(f"{found} stands where a key was expected", node.line, "put the key in quotes")
        if node.text in parent.entries:
            first = parent.entries[node.text][0]
            hint = "keep one of the two"
            self._refuse(f"the key `{node.text[:64]}` stands here and already in line {first}", node.line, hint)
        return node.line, node.text

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        self._check_plainness(event, line)
        text: str = event.value
        if not text.isprintable():
            self._refuse("a text with a line break or a control character", line, "write it on one line")
        if not event.implicit[0]:
            return Scalar(line, text, Kind.TEXT)
        tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # untyped in its stub
        return Scalar(line, text, _KINDS.get(tag.rpartition(":")[2], Kind.TEXT))

    def _check_plainness(self, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            self._refuse_anchor(line)
        if getattr(event, "tag", None) is not None:
            self._refuse("a tag (a word that begins with !)", line, "remove it, or put the text in quotes")

    def _refuse_anchor(self, line: int) -> NoReturn:
        self._refuse("an anchor or alias (& or *)", line, _ANCHOR_HINT)

    def _refuse(self, message: str, line: int, hint: str) -> NoReturn:
        raise ConfigError(message, file=self._file, line=line, hint=hint)
