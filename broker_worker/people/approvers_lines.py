"""Changes of the text of `approvers.yaml`, line by line, so that whatever else stands there stays as it is.

Nothing here is sure of itself: whoever asks for a change reads the new text and compares what it says.
"""

from collections.abc import Sequence

from broker_worker.files.yaml_reader import MappingNode, Node
from broker_worker.files.yaml_reader import Sequence as ListNode


def _entries(tree: MappingNode) -> ListNode | None:
    _, node = tree.entries.get("approvers", (0, None))
    return node if isinstance(node, ListNode) else None


def _entry_of(tree: MappingNode, name: str) -> MappingNode | None:
    listed = _entries(tree)
    for node in listed.items if listed is not None else ():
        if isinstance(node, MappingNode) and getattr(node.entries.get("name", (0, None))[1], "text", None) == name:
            return node
    return None


def _last_line(node: Node) -> int:
    """The last line on which something of a value begins, from 1."""
    if isinstance(node, MappingNode):
        return max([node.line, *(max(line, _last_line(value)) for line, value in node.entries.values())])
    if isinstance(node, ListNode):
        return max([node.line, *(_last_line(item) for item in node.items)])
    return node.line


def _indent(line: str) -> int | None:
    """How far an entry of a block list is indented; None of a line that is none."""
    stripped = line.lstrip(" ")
    return len(line) - len(stripped) if stripped.startswith("- ") else None


def with_entry(lines: Sequence[str], tree: MappingNode, entry: str) -> str | None:
    """The text with another person at the end of the list; None if it cannot be made by changing lines."""
    listed = _entries(tree)
    if listed is None:
        return None
    if not listed.items:
        index = tree.entries["approvers"][0] - 1
        head, bracket, tail = lines[index].partition("[")
        if not bracket or not tail.startswith("]"):
            return None
        return "".join([*lines[:index], head.rstrip() + _comment(tail[1:]) + "\n", entry, *lines[index + 1 :]])
    indent = _indent(lines[listed.items[-1].line - 1])
    if indent is None:
        return None
    moved = "".join(" " * indent + line[2:] for line in entry.splitlines(keepends=True))
    return _inserted(lines, _last_line(listed), moved)


def with_key(lines: Sequence[str], tree: MappingNode, name: str, key: str) -> str | None:
    """The text with another key at the end of a person's; None if it cannot be made by changing lines.

    Args:
        lines: the old text.
        tree: what it says.
        name: the person.
        key: the key as it is to stand there.
    """
    node = _entry_of(tree, name)
    keys = node.entries["keys"][1] if node is not None else None
    if not isinstance(keys, ListNode) or not keys.items:
        return None
    indent = _indent(lines[keys.items[-1].line - 1])
    return None if indent is None else _inserted(lines, _last_line(keys), f"{' ' * indent}- {key}\n")


def without_entry(lines: Sequence[str], tree: MappingNode, name: str) -> str | None:
    """The text without a person; None if it cannot be made by changing lines."""
    node, listed = _entry_of(tree, name), _entries(tree)
    if node is None or listed is None or _indent(lines[node.line - 1]) is None:
        return None
    kept = [*lines[: node.line - 1], *lines[_last_line(node) :]]
    if len(listed.items) == 1:
        index = tree.entries["approvers"][0] - 1
        head, colon, tail = kept[index].partition(":")
        kept[index] = f"{head}{colon} []{_comment(tail)}\n"
    return "".join(kept)


def _comment(rest: str) -> str:
    """What stands behind a value, if it is a comment."""
    return f" {rest.strip()}" if rest.strip().startswith("#") else ""


def _inserted(lines: Sequence[str], after: int, text: str) -> str:
    before = list(lines[:after])
    if not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before, text, *lines[after:]])
