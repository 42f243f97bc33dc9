"""`issuers.yaml`: whose identity tokens the broker believes, for which agents and how long."""

import base64
import re
from collections.abc import Iterable

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_agent_id
from agent_sdk.wire.sealing import run_exchange_public
from agent_sdk.wire.tokens import TrustAnchor
from broker_worker.files.quantities import parse_duration
from broker_worker.files.sections import Section, Value

DEFAULT_LIFETIME = 8 * 3600
"""Longest life of a token, in seconds, where `max_lifetime` is not written."""
_DEFAULT_DOMAIN = "secret-broker.local"
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?", re.ASCII)
_KEYS = ("name", "public_key", "agents", "all_agents", "max_lifetime", "trust_domain")


def read_issuers(issuers: Value, known_agents: Iterable[str]) -> tuple[TrustAnchor, ...]:
    """Read the `issuers` section.

    Args:
        issuers: a list of issuers; never empty.
        known_agents: the agents of the policy, for whom an issuer with `all_agents: true` may speak.

    Raises:
        ConfigError: with file and line.
    """
    everybody = frozenset(known_agents)
    anchors: list[TrustAnchor] = []
    for item in issuers.items():
        section = item.section(*_KEYS)
        anchor = _read_issuer(section, everybody)
        if any(anchor.public_key == other.public_key for other in anchors):
            raise section.error("this public key stands twice", "a key belongs to one issuer: keep one entry")
        anchors.append(anchor)
    if not anchors:
        raise issuers.error(
            "nobody could be identified: the list is empty", "`secret-broker init` makes a first issuer"
        )
    return tuple(anchors)


def _read_issuer(section: Section, everybody: frozenset[str]) -> TrustAnchor:
    lifetime = section.get("max_lifetime")
    domain = section.get("trust_domain")
    return TrustAnchor(
        issuer=_issuer_name(section.require("name", why="the `iss` of its tokens")),
        public_key=_public_key(section.require("public_key", why="its Ed25519 public key, base64url or hexadecimal")),
        agents=_agents(section, everybody),
        max_lifetime=DEFAULT_LIFETIME if lifetime is None else lifetime.parsed(parse_duration),
        trust_domain=_DEFAULT_DOMAIN if domain is None else _domain(domain),
    )


def _issuer_name(value: Value) -> str:
    text = value.text("the issuer's name")
    if len(text) > 256:
        raise value.error(f"has {len(text)} characters; at most 256 are allowed")
    return text


def _domain(value: Value) -> str:
    text = value.text("a SPIFFE trust domain")
    if _DOMAIN.fullmatch(text) is None:
        raise value.expected("a SPIFFE trust domain: lower-case letters, digits, '.', '-' and '_'")
    return text


def _agents(section: Section, everybody: frozenset[str]) -> frozenset[str]:
    section.refuse_both("agents", "all_agents")
    every = section.get("all_agents")
    if every is not None:
        every.choice("true", hint="write `agents:` with the agents it may speak for instead")
        return everybody
    value = section.require("agents", why="list the agents it may speak for, or write `all_agents: true`")
    agents: set[str] = set()
    for item in value.items():
        if item.raw == "*":
            raise item.error("a `*` does not stand for every agent here", "write `all_agents: true`")
        agents.add(item.name(check_agent_id))
    if not agents:
        raise value.error("the list is empty", "name the agents it may speak for, or remove the issuer")
    return frozenset(agents)


def _public_key(value: Value) -> bytes:
    raw = _decoded(value.raw or "")
    try:
        if raw is not None:
            run_exchange_public(raw)  # refuses what is no point of prime order
            return raw
    except WireError:
        pass
    hint = "`secret-broker init` writes it; the private key never stands here"
    raise value.error("expected an Ed25519 public key: 43 characters of base64url or 64 hexadecimal digits", hint)


def _decoded(text: str) -> bytes | None:
    """32 bytes from their one hexadecimal or base64url form; None if it is neither."""
    try:
        if len(text) == 64:
            return bytes.fromhex(text) if text.isalnum() else None
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=")
    except ValueError:
        return None
    return raw if len(raw) == 32 and base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text.rstrip("=") else None
