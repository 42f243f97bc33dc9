"""`approvers.yaml`: the people who may decide, the groups that they belong to, and the public halves of their keys."""

import base64
import re
from urllib.parse import urlsplit

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import is_agent_id
from agent_sdk.wire.sealing import run_exchange_public
from broker_worker.core.approvers import MAX_OPEN_PER_RUN, Approver, Approvers, Ed25519Key, Key, WebAuthnKey
from broker_worker.core.configuration import Dashboard
from broker_worker.files.sections import Section, Value

KEYS = ("approvers", "limits", "origins")

_PERSON_KEYS = ("name", "groups", "keys")
_MAX_CREDENTIAL_ID = 1023
"""Longest credential id, bytes (WebAuthn Level 3, section 4, "Credential ID")."""
_MAX_COSE_KEY = 2048
_MOST_OPEN = 1000
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)


def read_approvers(document: Section, dashboard: Dashboard) -> Approvers:
    """Read the people who may decide.

    Args:
        document: a mapping with `approvers`, a list that may be empty, and perhaps `limits` and `origins`.
        dashboard: its origin is the one that counts where no others are written.

    Raises:
        ConfigError: with file and line.
    """
    people: dict[str, Approver] = {}
    for item in document.require("approvers", why="write `approvers: []` if there is nobody").items():
        person = _read_person(item)
        _refuse_twins(item, person, people)
        people[person.name] = person
    _refuse_ambiguous(document, people)
    return Approvers(people, _origins(document.get("origins"), dashboard), _most_open(document.get("limits")))


def check_person_name(text: str) -> str:
    """A name of a person or of a group, as it was.

    Raises:
        WireError: if it is not canonical.
    """
    if not is_agent_id(text):
        raise WireError(f"name {text[:64]!r} is not in canonical form: expected the form of an agent id")
    return text


def decode_base64url(text: str) -> bytes | None:
    """Bytes from their one base64url form, with or without padding; None if it is none."""
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text.rstrip("=") else None


def decode_ed25519(text: str) -> bytes | None:
    """An Ed25519 public key from its one base64url form; None if it is none."""
    raw = decode_base64url(text)
    if raw is None or len(raw) != 32:
        return None
    try:
        run_exchange_public(raw)  # refuses what is no point of prime order
    except WireError:
        return None
    return raw


def read_origin(value: Value) -> str:
    """What a browser shows as the address of a page, without a path (RFC 6454, section 6.2).

    Raises:
        ConfigError: if it is not written as a browser writes it, or a browser would not offer WebAuthn there.
    """
    text = value.text("an origin such as http://localhost:7710")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise value.expected("an origin such as http://localhost:7710") from None
    host = parts.hostname or ""
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    written = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    if usual is None or port in {usual, 0} or written != text or _HOST.fullmatch(host) is None:
        raise value.expected(
            "an origin as browsers write it: http:// or https://, a host name in lower case, and the port if it is not "
            "the usual one; no path"
        )
    if host.rpartition(".")[2].isdigit():
        raise value.error("an IP address cannot hold anybody's credentials", "visit it by name: http://localhost:7710")
    if parts.scheme == "http" and host != "localhost" and not host.endswith(".localhost"):
        raise value.error("a browser signs nothing on a page without TLS", "write https://, or use localhost")
    return text


def _read_person(item: Value) -> Approver:
    section = item.section(*_PERSON_KEYS, hint="write `- name: alice` and `keys:` below it")
    name = section.require("name", why="what the person is called here").name(check_person_name)
    groups: list[str] = []
    written = section.get("groups")
    for group in written.items() if written is not None else ():
        text = group.name(check_person_name)
        if text in groups:
            raise group.error(f"the group `{text}` stands twice", "keep one of the two")
        groups.append(text)
    listed = section.require("keys", why="`secret-broker approvers enrol NAME` or `approvers add NAME` writes them")
    keys = tuple(_read_key(value) for value in listed.items())
    if not keys:
        raise listed.error("without a key the person can decide nothing", "enrol a key, or remove the person")
    return Approver(name, tuple(groups), keys, item.origin)


def _read_key(value: Value) -> Key:
    section = value.section("kind", "public_key", "credential_id", "rp_id", hint="write `{kind: ed25519, …}`")
    kind = section.require("kind", why="write `kind: ed25519` or `kind: webauthn`").choice("ed25519", "webauthn")
    public = section.require("public_key")
    if kind == "ed25519":
        for key in ("credential_id", "rp_id"):
            if (stray := section.get(key)) is not None:
                raise stray.error("belongs to a key of kind webauthn", "remove it, or correct `kind`")
        return Ed25519Key(_ed25519(public))
    credential_id = _bytes(section.require("credential_id"), _MAX_CREDENTIAL_ID)
    rp_id = section.require("rp_id", why="the host name that the credential was made for, such as localhost")
    host = rp_id.text("a host name such as localhost")
    if _HOST.fullmatch(host) is None:
        raise rp_id.expected("a host name in lower case, such as localhost")
    return WebAuthnKey(credential_id, _bytes(public, _MAX_COSE_KEY), host)


def _ed25519(value: Value) -> bytes:
    raw = decode_ed25519(value.raw or "")
    if raw is None:
        hint = "`secret-broker approvers new-key` shows it"
        raise value.error("expected an Ed25519 public key: 43 characters of base64url", hint)
    return raw


def _bytes(value: Value, most: int) -> bytes:
    raw = decode_base64url(value.raw or "")
    if not raw or len(raw) > most:
        raise value.error(f"expected 1 to {most} bytes in base64url", "`secret-broker approvers enrol` writes it")
    return raw


def _refuse_twins(item: Value, person: Approver, others: dict[str, Approver]) -> None:
    if person.name in others:
        hint = "give both keys to one entry, or rename one"
        raise item.error(f"`{person.name}` stands here and in line {others[person.name].origin.line}", hint)
    seen = {_identifier(key): other.name for other in others.values() for key in other.keys}
    for key in person.keys:
        owner = seen.get(_identifier(key))
        if owner is not None:
            raise item.error(f"a key of `{person.name}` stands twice; `{owner}` has it", "a key belongs to one person")
        seen[_identifier(key)] = person.name


def _identifier(key: Key) -> bytes:
    return key.public if isinstance(key, Ed25519Key) else key.credential_id


def _refuse_ambiguous(document: Section, people: dict[str, Approver]) -> None:
    groups = {group for person in people.values() for group in person.groups}
    for name, person in people.items():
        if name in groups:
            message = f"`{name}` is a person and a group, so a policy that names it would mean either"
            raise document.error(message, "rename one of the two", person.origin.line)


def _origins(value: Value | None, dashboard: Dashboard) -> tuple[str, ...]:
    if value is None:
        return (dashboard.origin,)
    origins = tuple(read_origin(item) for item in value.items())
    if not origins:
        raise value.error("the list is empty, so nobody could decide in a browser", "leave `origins` out")
    return origins


def _most_open(value: Value | None) -> int:
    most = value.section("open_per_run").get("open_per_run") if value is not None else None
    return MAX_OPEN_PER_RUN if most is None else most.integer(1, _MOST_OPEN)
