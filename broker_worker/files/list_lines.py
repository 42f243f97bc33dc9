"""Changes of the text of a file that holds a list, line by line, so that whatever else stands there stays as it is.

Nothing here is sure of itself: whoever asks for a change reads the new text and compares what it says.
"""

import re
import stat
from collections.abc import Sequence
from pathlib import Path

from broker_worker.core.errors import SetupError
from broker_worker.files.yaml_reader import MappingNode, Node
from broker_worker.files.yaml_reader import Sequence as ListNode
from broker_worker.private_files import write_private

_PLAIN_VALUE = re.compile(r"(\s*(?:- )?[a-z_]+: )[^\s#{\[&*!|>%@`,]+(\s*(?:#.*)?)\n?", re.ASCII)


class NotChangedError(SetupError):
    """A file that is written in a way that this program does not dare to change.

    Args:
        path: the file.
        by_hand: the lines that a person must write, and where.
    """

    code = "not_changed"

    def __init__(self, path: Path, by_hand: str) -> None:
        super().__init__(
            f"{path} is written in a way that this program does not dare to change", hint="change it by hand"
        )
        self.by_hand = by_hand


def replace_text(path: Path, text: str) -> None:
    """Write a file anew with the mode that it has, or 0600 if it is new; a symbolic link stays one.

    Raises:
        SetupError: if it cannot be written; the old content is then still there.
    """
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    target = path.resolve()
    write_private(target, text.encode())
    if mode != 0o600:
        target.chmod(mode)  # a broker of another user may have to read it


def list_of(tree: MappingNode, key: str) -> ListNode | None:
    """The list below a key of the top level; None if it is none."""
    _, node = tree.entries.get(key, (0, None))
    return node if isinstance(node, ListNode) else None


def entry_of(tree: MappingNode, key: str, field: str, text: str) -> MappingNode | None:
    """The entry of the list below `key` whose `field` says `text`."""
    listed = list_of(tree, key)
    for node in listed.items if listed is not None else ():
        if isinstance(node, MappingNode) and getattr(node.entries.get(field, (0, None))[1], "text", None) == text:
            return node
    return None


def last_line(node: Node) -> int:
    """The last line on which something of a value begins, from 1."""
    if isinstance(node, MappingNode):
        return max([node.line, *(max(line, last_line(value)) for line, value in node.entries.values())])
    if isinstance(node, ListNode):
        return max([node.line, *(last_line(item) for item in node.items)])
    return node.line


def indent_of(line: str) -> int | None:
    """How far an entry of a block list is indented; None of a line that is none."""
    stripped = line.lstrip(" ")
    return len(line) - len(stripped) if stripped.startswith("- ") else None


def with_entry(lines: Sequence[str], tree: MappingNode, key: str, entry: str) -> str | None:
    """The text with another entry at the end of the list; None if it cannot be made by changing lines.

    Args:
        lines: the old text.
        tree: what it says.
        key: whose list it is.
        entry: the entry's lines, indented by two.
    """
    listed = list_of(tree, key)
    if listed is None:
        return None
    if not listed.items:
        index = tree.entries[key][0] - 1
        head, bracket, tail = lines[index].partition("[")
        if not bracket or not tail.startswith("]"):
            return None
        return "".join([*lines[:index], head.rstrip() + _comment(tail[1:]) + "\n", entry, *lines[index + 1 :]])
    indent = indent_of(lines[listed.items[-1].line - 1])
    if indent is None:
        return None
    moved = "".join(" " * indent + line[2:] for line in entry.splitlines(keepends=True))
    return inserted(lines, last_line(listed), moved)


def with_value(lines: Sequence[str], node: MappingNode, field: str, text: str) -> str | None:
    """The text with another plain value of a field of an entry; None if it cannot be made by changing one line.

    Args:
        lines: the old text.
        node: the entry.
        field: the field, which is on a line of its own.
        text: its new value, as it is to stand there.
    """
    line = node.entries[field][0]
    found = _PLAIN_VALUE.fullmatch(lines[line - 1])
    if found is None:
        return None
    return "".join([*lines[: line - 1], f"{found[1]}{text}{found[2].rstrip()}\n", *lines[line:]])


def without_entry(lines: Sequence[str], tree: MappingNode, key: str, node: MappingNode) -> str | None:
    """The text without an entry of the list below `key`; None if it cannot be made by changing lines."""
    listed = list_of(tree, key)
    if listed is None or indent_of(lines[node.line - 1]) is None:
        return None
    kept = [*lines[: node.line - 1], *lines[last_line(node) :]]
    if len(listed.items) == 1:
        index = tree.entries[key][0] - 1
        head, colon, tail = kept[index].partition(":")
        kept[index] = f"{head}{colon} []{_comment(tail)}\n"
    return "".join(kept)


def inserted(lines: Sequence[str], after: int, text: str) -> str:
    """The text with more lines after one of them."""
    before = list(lines[:after])
    if not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before, text, *lines[after:]])


def _comment(rest: str) -> str:
    """What stands behind a value, if it is a comment."""
    return f" {rest.strip()}" if rest.strip().startswith("#") else ""
