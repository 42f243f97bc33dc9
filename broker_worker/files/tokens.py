"""`tokens.yaml`: static tokens, each by its digest. The file holds nothing that anybody could show."""

import re
from collections.abc import Mapping

from agent_sdk.wire.names import check_agent_id
from agent_sdk.wire.static_tokens import is_token_id
from broker_worker.core.configuration import StaticToken
from broker_worker.files.quantities import parse_moment
from broker_worker.files.sections import Section, Value

KEYS = ("tokens",)
_ENTRY_KEYS = ("id", "agent", "sha256", "created", "expires")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HINT = "`secret-broker tokens issue --agent ID --ttl 30d` makes a token and its entry"


def read_tokens(document: Section) -> Mapping[str, StaticToken]:
    """Read the static tokens.

    An agent that the policy does not know is no error: its token is good for nothing, and taking an agent out of the
    policy must not depend on another file.

    Args:
        document: a mapping with `tokens`, a list that may be empty.

    Returns:
        The tokens by their ids.

    Raises:
        ConfigError: with file and line.
    """
    tokens: dict[str, StaticToken] = {}
    known: dict[bytes, str] = {}
    for item in document.require("tokens", why="write `tokens: []` if there is none").items():
        section = item.section(*_ENTRY_KEYS, hint=_HINT)
        token = _read_token(section)
        if token.token_id in tokens:
            first = tokens[token.token_id].origin.line
            raise section.error(f"the id `{token.token_id}` stands here and in line {first}", "keep one entry")
        if token.sha256 in known:
            raise section.error(f"the same token as `{known[token.sha256]}`", "a token is one agent's: keep one entry")
        tokens[token.token_id] = token
        known[token.sha256] = token.token_id
    return tokens


def _read_token(section: Section) -> StaticToken:
    created = section.require("created", why="when it was issued, such as 2026-01-31T12:00:00Z")
    expires = section.require("expires", why="from when on it is good for nothing; every static token ends")
    token = StaticToken(
        token_id=_required(section, "id", "the 8 characters behind `sbt_`").parsed(_token_id),
        agent=section.require("agent", why="who it speaks for").name(check_agent_id),
        sha256=_required(section, "sha256", "the SHA-256 of its text").parsed(_digest),
        created_at=created.parsed(parse_moment),
        expires_at=expires.parsed(parse_moment),
        origin=section.origin,
    )
    if token.expires_at <= token.created_at:
        raise expires.error("ends before it begins", "write a later time, or take the entry out")
    return token


def _required(section: Section, key: str, why: str) -> Value:
    """A value that errors do not repeat: somebody may have written the token itself there."""
    return section.require(key, why=why, private=True)


def _token_id(text: str) -> str:
    if not is_token_id(text):
        raise ValueError(f"expected 8 characters of a-z and 2-7; {_HINT}")
    return text


def _digest(text: str) -> bytes:
    if _DIGEST.fullmatch(text) is None:
        raise ValueError(f"expected 64 characters of 0-9 and a-f, never the token itself; {_HINT}")
    return bytes.fromhex(text)
