"""Changes of `tokens.yaml` that keep everything else in it, comments included: issuing, rotating, revoking.

A change is a change of lines. It is written only if the file, read anew, then says exactly what it said before and the
change; otherwise a person makes it, and is told what to write.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agent_sdk.wire.static_tokens import TokenRecord
from broker_worker.core.configuration import StaticToken
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.core.policy import Origin
from broker_worker.files.configuration import TOKENS_FILE
from broker_worker.files.list_lines import (
    NotChangedError,
    entry_of,
    replace_text,
    with_entry,
    with_value,
    without_entry,
)
from broker_worker.files.sections import Section
from broker_worker.files.tokens import KEYS, read_tokens
from broker_worker.files.yaml_reader import MappingNode, parse_yaml, read_yaml

_LIST = "tokens"
_NEW = """\
# Static tokens of scripts that no launcher starts, each by its SHA-256. The tokens themselves are nowhere.
# `secret-broker tokens issue`, `rotate` and `revoke` change this file.

tokens: []
"""
_NOWHERE = Origin("", 0)
_Edit = Callable[[Sequence[str], MappingNode], str | None]


@dataclass(frozen=True, slots=True)
class _Change:
    """What a file is to say, and how it comes to say it.

    Args:
        tokens: all tokens, by id.
        edits: make the new text, one after the other; None where one cannot.
        by_hand: what a person must write, and where, if that does not work.
    """

    tokens: Mapping[str, StaticToken]
    edits: tuple[_Edit, ...]
    by_hand: str


class TokensFile:
    """The static tokens, and the file that says so.

    Args:
        folder: where the operator's files are.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOKENS_FILE

    def tokens(self) -> Mapping[str, StaticToken]:
        """All tokens by id; none if there is no file.

        Raises:
            ConfigError: with file and line.
        """
        return self._read(self._text())

    def add(self, record: TokenRecord, agent: str, created_at: int, expires_at: int) -> None:
        """Add a token.

        Args:
            record: what is kept of it.
            agent: whose it is.
            created_at: when it was issued, ms since the epoch; cut to seconds.
            expires_at: until when it is good.

        Raises:
            ConfigError: if the file is not valid.
            NotChangedError: if it cannot be changed safely. Nobody writes this by hand: the token is to be thrown away.
        """
        added = _added(record, agent, created_at, expires_at)
        lines = _lines(added)
        self._write(
            _Change(
                {**self.tokens(), added.token_id: added},
                (lambda old, tree: with_entry(old, tree, _LIST, lines),),
                by_hand="",
            )
        )

    def rotate(
        self, old: StaticToken, record: TokenRecord, created_at: int, expires_at: int, old_expires_at: int
    ) -> None:
        """Add a token for the agent of another one, which ends.

        Args:
            old: the one that ends.
            record: what is kept of the new one.
            created_at: when the new one was issued, ms since the epoch; cut to seconds.
            expires_at: until when the new one is good.
            old_expires_at: until when the old one is; not later than it was.

        Raises:
            ConfigError: if the file is not valid.
            NotChangedError: if it cannot be changed safely. Nobody writes this by hand: the token is to be thrown away.
        """
        added = _added(record, old.agent, created_at, expires_at)
        ended = replace(old, expires_at=min(old.expires_at, max(_second(old_expires_at), old.created_at + 1000)))
        until, lines = _moment(ended.expires_at), _lines(added)

        def end_old(text: Sequence[str], tree: MappingNode) -> str | None:
            node = entry_of(tree, _LIST, "id", old.token_id)
            return None if node is None else with_value(text, node, "expires", until)

        self._write(
            _Change(
                {**self.tokens(), old.token_id: ended, added.token_id: added},
                (end_old, lambda text, tree: with_entry(text, tree, _LIST, lines)),
                by_hand="",
            )
        )

    def remove(self, token_id: str) -> None:
        """Take a token out.

        Raises:
            ConfigError: if the file is not valid.
            NotChangedError: if it cannot be changed safely; `by_hand` says what to write.
            SetupError: if there is none of that id.
        """
        known = dict(self.tokens())
        line = self.find(token_id).origin.line
        known.pop(token_id)

        def take_out(text: Sequence[str], tree: MappingNode) -> str | None:
            node = entry_of(tree, _LIST, "id", token_id)
            return None if node is None else without_entry(text, tree, _LIST, node)

        self._write(_Change(known, (take_out,), f"without the entry of {token_id}, which begins in line {line}\n"))

    def find(self, token_id: str) -> StaticToken:
        """The token of an id.

        Raises:
            SetupError: if there is none.
        """
        known = self.tokens()
        if token_id not in known:
            hint = f"there is: {', '.join(known)}" if known else "`secret-broker tokens issue` makes one"
            raise SetupError(f"{self.path} has no token {token_id[:16]!r}", hint=hint)
        return known[token_id]

    def _write(self, change: _Change) -> None:
        before = self._text()
        text: str | None = before
        for edit in change.edits:
            if text is not None:
                text = edit(text.splitlines(keepends=True), parse_yaml(text.encode(), str(self.path)))
        if text is None or not self._says(text, change.tokens):
            raise NotChangedError(self.path, change.by_hand)
        if self._text() != before:
            raise SetupError(f"{self.path} was changed by somebody else meanwhile", hint="try again")
        replace_text(self.path, text)

    def _text(self) -> str:
        if not self.path.exists():
            return _NEW
        read_yaml(self.path)  # says what is wrong with it, if anything is
        return self.path.read_bytes().decode("utf-8-sig")

    def _says(self, text: str, wanted: Mapping[str, StaticToken]) -> bool:
        """Whether a text says exactly that."""
        try:
            return _placeless(self._read(text)) == _placeless(wanted)
        except ConfigError:
            return False

    def _read(self, text: str) -> Mapping[str, StaticToken]:
        tree = parse_yaml(text.encode(), str(self.path))
        document = Section(tree, file=str(self.path), origin=self.path.name, what="top level")
        document.refuse_unknown(KEYS)
        return read_tokens(document)


def _added(record: TokenRecord, agent: str, created_at: int, expires_at: int) -> StaticToken:
    return StaticToken(record.token_id, agent, record.digest, _second(created_at), _second(expires_at), _NOWHERE)


def _lines(token: StaticToken) -> str:
    """An entry as the file has it; the id is in quotes because it may look like a number."""
    fields = {
        "id": f'"{token.token_id}"',
        "agent": f'"{token.agent}"',
        "sha256": f'"{token.sha256.hex()}"',
        "created": _moment(token.created_at),
        "expires": _moment(token.expires_at),
    }
    first, *others = (f"{name}: {text}\n" for name, text in fields.items())
    return f"  - {first}" + "".join(f"    {line}" for line in others)


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _second(milliseconds: int) -> int:
    return milliseconds // 1000 * 1000


def _placeless(tokens: Mapping[str, StaticToken]) -> Mapping[str, StaticToken]:
    """The same without lines, which a change moves."""
    return {token_id: replace(token, origin=_NOWHERE) for token_id, token in tokens.items()}
