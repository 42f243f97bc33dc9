"""Adds lines to `secrets.yaml` and `policy.yaml` as text, so that comments, order and spelling stay.

What is added is found again by reading the result; a form that cannot be added to without writing it anew is refused.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from broker_worker.core.errors import ConfigError
from broker_worker.files.yaml_reader import MappingNode, Node, parse_yaml
from broker_worker.files.yaml_reader import Sequence as ListNode

_PLAIN: Final = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*)+", re.ASCII)
_FLOW_LIST: Final = re.compile(r"(?P<head>[^#]*?allow:[ ]*)\[(?P<items>[^\[\]{}#\"']*)\](?P<tail>[ ]*(?:#.*)?)")
_EMPTY: Final = re.compile(r"(?P<head>[^#]*?:)[ ]*\{[ ]*\}(?P<tail>[ ]*(?:#.*)?)")
_STEP: Final = 2


class YamlText:
    """The text of an operator's file, to be added to.

    Args:
        raw: its bytes.
        file: its name in errors.

    Raises:
        ConfigError: with file and line, if it is not valid.
    """

    def __init__(self, raw: bytes, file: str) -> None:
        self._file = file
        self._text = raw.decode("utf-8")
        self._end = "\r\n" if "\r\n" in self._text else "\n"
        parse_yaml(raw, file)

    @property
    def raw(self) -> bytes:
        """The text as it is now."""
        return self._text.encode()

    def add_references(self, references: Mapping[str, str]) -> None:
        """Add names and references below `secrets`.

        Args:
            references: names that are not there yet.

        Raises:
            ConfigError: if it is written in a form that cannot be added to.
        """
        line, node = self._entry(self._tree, "secrets", "top level")
        self._add_entries(line, node, [f'{_spelled(name)}: "{ref}"' for name, ref in references.items()], "secrets")

    def add_grants(self, agent: str, names: Sequence[str]) -> None:
        """Add names to what an agent is allowed.

        Args:
            agent: an agent that is there.
            names: secret names.

        Raises:
            ConfigError: if there is no such agent, or it is written in a form that cannot be added to.
        """
        key = "agents" if "agents" in self._tree.entries else "policies"
        _, agents = self._entry(self._tree, key, "top level")
        line, node = self._entry(agents, agent, f"`{key}`")
        if not isinstance(node, MappingNode):
            raise self._refuse(line, f"the agent `{agent}` is no mapping")
        if "allow" not in node.entries:
            block = ["allow:", *(f"  - {_spelled(name)}" for name in names)]
            self._add_entries(line, node, block, agent)
            return
        line, allowed = self._entry(node, "allow", f"`{agent}`")
        assert isinstance(allowed, ListNode)
        row = self._rows[line - 1]
        flow = _FLOW_LIST.fullmatch(row)
        if flow is not None:
            items = [part.strip() for part in flow["items"].split(",") if part.strip()] + [
                _spelled(name) for name in names
            ]
            self._replace(line, [f"{flow['head']}[{', '.join(items)}]{flow['tail']}"])
            return
        first = self._rows[allowed.items[0].line - 1] if allowed.items else ""
        if not first.lstrip().startswith("- ") or "[" in row.partition("#")[0]:
            raise self._refuse(line, f"`allow` of `{agent}` is not written as a line for each name")
        indent = len(first) - len(first.lstrip())
        at = self._last_row(allowed.items[-1].line, indent)
        self._insert(at, [f"{' ' * indent}- {_spelled(name)}" for name in names])

    def _add_entries(self, line: int, node: Node, entries: Sequence[str], what: str) -> None:
        row = self._rows[line - 1]
        if not isinstance(node, MappingNode):
            raise self._refuse(line, f"`{what}` is no mapping")
        empty = _EMPTY.fullmatch(row)
        if not node.entries and empty is not None:
            indent = len(row) - len(row.lstrip()) + _STEP
            self._replace(line, [empty["head"] + empty["tail"], *(f"{' ' * indent}{each}" for each in entries)])
            return
        last = max((at for at, _ in node.entries.values()), default=0)
        if last <= line or "{" in row.partition("#")[0].partition(":")[2]:
            raise self._refuse(line, f"`{what}` is not written as a line for each key")
        text = self._rows[last - 1]
        indent = len(text) - len(text.lstrip())
        self._insert(self._last_row(last, indent), [f"{' ' * indent}{each}" for each in entries])

    def _last_row(self, line: int, indent: int) -> int:
        """The last line of what begins in a line: those below it that are indented deeper, comments between them."""
        last = line
        for number, row in enumerate(self._rows[line:], line + 1):
            text = row.strip()
            if text and not text.startswith("#"):
                if len(row) - len(row.lstrip()) <= indent:
                    break
                last = number
        return last

    @property
    def _rows(self) -> list[str]:
        return self._text.replace("\r\n", "\n").split("\n")

    @property
    def _tree(self) -> MappingNode:
        return parse_yaml(self._text.encode(), self._file)

    def _entry(self, node: Node, key: str, where: str) -> tuple[int, Node]:
        if not isinstance(node, MappingNode) or key not in node.entries:
            hint = (
                f"write `{key}` there first; what an unknown agent may have is not guessed"
                if where != "top level"
                else ""
            )
            raise ConfigError(f"there is no `{key}` at {where}", file=self._file, line=node.line, hint=hint)
        return node.entries[key]

    def _insert(self, at: int, rows: Sequence[str]) -> None:
        before = self._rows[:at]
        self._store([*before, *rows, *self._rows[at:]])

    def _replace(self, line: int, rows: Sequence[str]) -> None:
        self._store([*self._rows[: line - 1], *rows, *self._rows[line:]])

    def _store(self, rows: Sequence[str]) -> None:
        self._text = self._end.join(rows)
        parse_yaml(self._text.encode(), self._file)

    def _refuse(self, line: int, message: str) -> ConfigError:
        return ConfigError(message, file=self._file, line=line, hint="write it as a block, with a line for each entry")


def _spelled(name: str) -> str:
    """A name as YAML takes it for a text."""
    return name if _PLAIN.fullmatch(name) else f'"{name}"'
