"""`issuers.yaml`: whose tokens count, for whom and how long."""

import base64

import nacl.signing
import pytest

from agent_sdk.wire.tokens import TrustAnchor
from broker_worker.core.errors import ConfigError
from broker_worker.files.issuers import read_issuers
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

KEY = bytes(nacl.signing.SigningKey(bytes(32)).verify_key)
TEXT = base64.urlsafe_b64encode(KEY).rstrip(b"=").decode()
OTHER = bytes(nacl.signing.SigningKey(b"1" * 32).verify_key).hex()


def read(text: str) -> tuple[TrustAnchor, ...]:
    """The trust anchors that a file with that text states, for the agents claude and codex."""
    document = Section(
        parse_yaml(text.encode(), "issuers.yaml"), file="issuers.yaml", origin="issuers.yaml", what="top level"
    )
    return read_issuers(document.require("issuers"), ["claude", "codex"])


def refusal(text: str) -> str:
    """The message of the error that a file with that text gives."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_an_issuer_with_everything_written_out() -> None:
    """All keys of an entry."""
    (anchor,) = read(
        f"issuers:\n  - {{name: local, public_key: {TEXT}, agents: [claude], max_lifetime: 30m, "
        "trust_domain: agents.example}"
    )
    assert anchor == TrustAnchor("local", KEY, frozenset({"claude"}), 1800, "agents.example")


def test_all_agents_are_those_of_the_policy() -> None:
    """Not whatever a token says."""
    (anchor,) = read(f"issuers: [{{name: local, public_key: {TEXT}, all_agents: true}}]")
    assert (anchor.agents, anchor.max_lifetime) == (frozenset({"claude", "codex"}), 8 * 3600)


@pytest.mark.parametrize("text", [TEXT, TEXT + "=", KEY.hex(), KEY.hex().upper()])
def test_a_public_key_is_base64url_or_hexadecimal(text: str) -> None:
    """Both forms that tools print."""
    (anchor,) = read(f"issuers: [{{name: local, public_key: '{text}', all_agents: true}}]")
    assert anchor.public_key == KEY


@pytest.mark.parametrize(
    "text",
    [
        "''",
        "x",
        TEXT[:-1],
        TEXT + "A",
        TEXT[:-1] + "9",
        "'" + " " * 64 + "'",
        "é" * 43,
        "00" * 32,
        "[a]",
        "~",
        "A" * 43,
    ],
)
def test_anything_else_is_no_public_key(text: str) -> None:
    """Too short, too long, not canonical, or no point of prime order."""
    assert "expected an Ed25519 public key" in refusal(
        f"issuers: [{{name: local, public_key: {text}, all_agents: true}}]"
    )


def test_two_keys_of_one_issuer_are_a_rotation() -> None:
    """Both count until the old one is removed."""
    entry = "{name: local, public_key: %s, all_agents: true}"
    assert len(read(f"issuers: [{entry % TEXT}, {entry % OTHER}]")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issuers: []", "issuers.yaml:1: `issuers`: nobody could be identified: the list is empty"),
        (
            f"issuers:\n  - {{name: a, public_key: {TEXT}, all_agents: true}}\n"
            f"  - {{name: b, public_key: {TEXT}, all_agents: true}}",
            "issuers.yaml:3: entry of `issuers`: this public key stands twice",
        ),
        (
            f"issuers: [{{name: a, public_key: {TEXT}}}]",
            "issuers.yaml:1: entry of `issuers`: the key `agents` is missing",
        ),
        (f"issuers: [{{name: a, public_key: {TEXT}, agents: []}}]", "issuers.yaml:1: `agents`: the list is empty"),
        (
            f"issuers: [{{name: a, public_key: {TEXT}, agents: ['*']}}]",
            "issuers.yaml:1: entry of `agents`: a `*` does not stand for every agent here",
        ),
        (
            f"issuers: [{{name: a, public_key: {TEXT}, agents: [a], all_agents: true}}]",
            "issuers.yaml:1: entry of `issuers`: `agents` and `all_agents` both stand here",
        ),
        (
            f"issuers: [{{name: a, public_key: {TEXT}, all_agents: false}}]",
            "issuers.yaml:1: `all_agents`: found `false`, which YAML takes for a boolean, expected `true`",
        ),
        (
            f"issuers: [{{name: a, public_key: {TEXT}, all_agents: true, max_lifetime: 3600}}]",
            "issuers.yaml:1: `max_lifetime`: found `3600`, which YAML takes for a number, expected a number and its "
            "unit, such as 90s, 10m, 8h or 7d",
        ),
        (
            f"issuers: [{{name: a, public_key: {TEXT}, all_agents: true, trust_domain: 'a/b'}}]",
            "issuers.yaml:1: `trust_domain`: found `a/b`, expected a SPIFFE trust domain: lower-case letters, digits, "
            "'.', '-' and '_'",
        ),
        (
            f"issuers: [{{name: {'x' * 257}, public_key: {TEXT}, all_agents: true}}]",
            "issuers.yaml:1: `name`: has 257 characters; at most 256 are allowed",
        ),
        (
            f"issuers: [{{nam: a, public_key: {TEXT}, all_agents: true}}]",
            "issuers.yaml:1: entry of `issuers`: unknown key `nam`",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, message: str) -> None:
    """What was found, and where."""
    assert refusal(text) == message


def test_a_private_key_in_its_place_is_not_repeated() -> None:
    """Whatever stands there, the error does not show it."""
    assert "c4nary" not in refusal("issuers: [{name: a, public_key: c4nary, all_agents: true}]")
