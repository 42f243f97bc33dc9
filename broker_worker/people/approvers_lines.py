"""Changes of the text of `approvers.yaml`, line by line (`files.list_lines`)."""

from collections.abc import Sequence

from broker_worker.files import list_lines
from broker_worker.files.yaml_reader import MappingNode
from broker_worker.files.yaml_reader import Sequence as ListNode

_LIST = "approvers"


def with_entry(lines: Sequence[str], tree: MappingNode, entry: str) -> str | None:
    """The text with another person at the end of the list; None if it cannot be made by changing lines."""
    return list_lines.with_entry(lines, tree, _LIST, entry)


def with_key(lines: Sequence[str], tree: MappingNode, name: str, key: str) -> str | None:
    """The text with another key at the end of a person's; None if it cannot be made by changing lines.

    Args:
        lines: the old text.
        tree: what it says.
        name: the person.
        key: the key as it is to stand there.
    """
    node = list_lines.entry_of(tree, _LIST, "name", name)
    keys = node.entries["keys"][1] if node is not None else None
    if not isinstance(keys, ListNode) or not keys.items:
        return None
    indent = list_lines.indent_of(lines[keys.items[-1].line - 1])
    if indent is None:
        return None
    return list_lines.inserted(lines, list_lines.last_line(keys), f"{' ' * indent}- {key}\n")


def without_entry(lines: Sequence[str], tree: MappingNode, name: str) -> str | None:
    """The text without a person; None if it cannot be made by changing lines."""
    node = list_lines.entry_of(tree, _LIST, "name", name)
    return None if node is None else list_lines.without_entry(lines, tree, _LIST, node)
