"""Secrets that are told by what they stand in: URLs, headers, key blocks, files of certain programs."""

import re
from collections.abc import Iterator
from typing import Final

from agent_sdk.scan.checks import is_basic, is_plain_pem, unbase64
from agent_sdk.scan.match import Match
from agent_sdk.scan.named_values import judge
from agent_sdk.scan.placeholders import entropy, is_placeholder, is_worded

_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{1,24}\Z")
_USERINFO: Final = re.compile(rb"([^\s:/@\"'`<>?#,;(){}\\]{0,128}):([^\s/@\"'`<>\\]{1,256})@(?=[\w\[$%{-])")
_DATABASES: Final = re.compile(
    rb"(?i:postgres|postgis|mysql|mariadb|mongodb|redis|valkey|rediss|amqp|mssql|sqlserver|oracle|clickhouse|cockroach|"
    rb"snowflake|redshift|neo4j|bolt|couchdb|cassandra|db2|jdbc|influx|ldap|nats|kafka|memcache|sqlite)"
)
_PEM: Final = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:\\[nr]|(?!-----)[\sA-Za-z0-9+/=:,.\"'|\\()@-]){64,16384}+(?:-----END|\Z)"
)
_BEARER: Final = re.compile(rb"[ \t]+(?P<value>[A-Za-z0-9._~+/=-]{16,2048})")
_BASIC: Final = re.compile(rb"[ \t]+(?P<value>[A-Za-z0-9+/]{8,512}={0,2})(?![A-Za-z0-9+/=])")
_DOCKER: Final = re.compile(rb"\"[ \t]*:[ \t]*\"(?P<value>[A-Za-z0-9+/]{8,1024}={0,2})\"")
_SIGNATURE: Final = re.compile(rb"(?P<value>[A-Za-z0-9+/]{20,}(?:%[0-9A-Fa-f]{2}[A-Za-z0-9+/%]*|=))")
_HOOK: Final = re.compile(
    rb"(?P<value>hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9]{8,}/[A-Za-z0-9]{8,}/[A-Za-z0-9/]{20,}|"
    rb"(?:ptb\.|canary\.)?discord(?:app)?\.com/api/webhooks/\d{17,20}/[A-Za-z0-9_-]{60,}|"
    rb"[a-z0-9-]+\.webhook\.office\.com/webhookb2/[0-9a-f@-]{70,}/IncomingWebhook/[0-9a-f]{32}/[0-9a-f-]{36}[\w/-]*)"
)
_COMMANDS: Final = (
    (b"curl", re.compile(rb"[^\r\n]{0,400}?\s(?:-u|--user)[ =]?[\"']?[^\s:\"']{1,128}:(?P<value>[^\s\"']{3,256})")),
    (b"sshpass", re.compile(rb"[ \t]+-p[ \t]*[\"']?(?P<value>[^\s\"']{3,256})")),
    (b"mysql", re.compile(rb"[^\r\n|;]{0,200}?\s-p(?P<value>[^\s\"'-][^\s\"']{3,256})")),
    (b"redis-cli", re.compile(rb"[^\r\n|;]{0,200}?\s-a[ \t]+[\"']?(?P<value>[^\s\"'-][^\s\"']{3,256})")),
    (b"docker login", re.compile(rb"[^\r\n|;]{0,200}?\s-p[ \t]+[\"']?(?P<value>[^\s\"'-][^\s\"']{3,256})")),
)
_NETRC: Final = re.compile(rb"(?m)(?:^|\s)password[ \t\r\n]+(?P<value>\S{3,512})")
_PGPASS: Final = re.compile(rb"(?m)^[^#:\r\n][^:\r\n]*:[^:\r\n]*:[^:\r\n]*:[^:\r\n]*:(?P<value>[^\r\n]{3,512})")
_MASTER_KEY: Final = re.compile(rb"\A(?P<value>[0-9a-f]{32}|[0-9a-f]{64})\s*\Z")
_NAMED_FILES: Final = {
    b".netrc": (_NETRC, "netrc-password"),
    b"_netrc": (_NETRC, "netrc-password"),
    b".pgpass": (_PGPASS, "pgpass-password"),
    b"pgpass.conf": (_PGPASS, "pgpass-password"),
    b"master.key": (_MASTER_KEY, "rails-master-key"),
}
_MANIFEST: Final = re.compile(rb"(?m)^kind:[ \t]*[\"']?Secret\b")
_DATA: Final = re.compile(rb"(?m)^data:[ \t]*\r?\n((?:[ \t][^\r\n]*+(?:\r?\n|\Z))++)")
_ENTRY: Final = re.compile(
    rb"(?m)^[ \t]+(?P<name>[\w.-]+):[ \t]*[\"']?(?P<value>[A-Za-z0-9+/]{8,8192}={0,2})[\"']?[ \t]*\r?$"
)


def find_urls(text: bytes) -> Iterator[Match]:
    """URLs with a user and a password (RFC 3986, section 3.2.1), and webhooks, whose paths are secrets."""
    at = text.find(b"://")
    while at >= 0:
        found = _USERINFO.match(text, at + 3)
        scheme = _SCHEME.search(text, max(0, at - 24), at)
        if found is not None and scheme is not None and _is_url_password(found[2]):
            kind = "database-url" if _DATABASES.match(scheme[0]) else "url-password"
            yield Match(kind, *found.span(2), is_specific=True)
        hook = _HOOK.match(text, at + 3)
        if hook is not None and not _is_dull(hook["value"]):
            yield Match("webhook-url", *hook.span("value"), is_specific=True)
        at = text.find(b"://", at + 3)


def _is_url_password(value: bytes) -> bool:
    is_regular = is_placeholder(value) or value.startswith((b"$", b"%s", b"%d", b"[", b"{", b":"))
    return not is_regular and len(value) >= 5 and not (is_worded(value) and len(value) < 9)


def _is_dull(value: bytes) -> bool:
    tail = value.rpartition(b"/")[2]
    return is_placeholder(tail) or entropy(tail) < 2.5


def find_blocks(text: bytes) -> Iterator[Match]:
    """Private keys in PEM and its relatives (RFC 7468; OpenSSH, PGP), that no passphrase protects."""
    at = text.find(b"-----BEGIN ")
    while at >= 0:
        found = _PEM.match(text, at)
        if found is not None and is_plain_pem(found[0]) and entropy(found[0][40:]) > 4.0:
            yield Match("private-key", *found.span(), is_specific=True)
        at = text.find(b"-----BEGIN ", at + 11 if found is None else found.end())


def find_headers(text: bytes, lowered: bytes) -> Iterator[Match]:
    """Credentials in HTTP headers (RFC 6750, RFC 7617), in `auth` of Docker's configuration, in signed URLs."""
    for found in _after(text, lowered, b"bearer", _BEARER):
        value = found["value"].rstrip(b".")
        if judge(b"token", value, is_setting=True):
            yield Match("bearer-token", found.start("value"), found.start("value") + len(value), is_specific=False)
    for found in _after(text, lowered, b"basic", _BASIC):
        if is_basic(found["value"]) and not _is_dull_basic(found["value"]):
            yield Match("basic-auth", *found.span("value"), is_specific=True)
    for found in _after(text, lowered, b'"auth', _DOCKER):
        if is_basic(found["value"]) and not _is_dull_basic(found["value"]):
            yield Match("docker-auth", *found.span("value"), is_specific=True)
    for found in _after(text, lowered, b"sig=", _SIGNATURE):
        if b"se=" in lowered[max(0, found.start() - 512) : found.end() + 256]:
            yield Match("azure-sas", *found.span("value"), is_specific=True)


def _is_dull_basic(value: bytes) -> bool:
    return is_placeholder(unbase64(value).partition(b":")[2])


def find_commands(text: bytes, lowered: bytes) -> Iterator[Match]:
    """Passwords that were typed as arguments of programs: histories, scripts, notes."""
    for word, form in _COMMANDS:
        for found in _after(text, lowered, word, form):
            value = found["value"]
            if not is_placeholder(value) and not value.startswith(b"$") and not (is_worded(value) and len(value) < 9):
                yield Match("command-password", *found.span("value"), is_specific=True)


def _after(text: bytes, lowered: bytes, word: bytes, form: "re.Pattern[bytes]") -> "Iterator[re.Match[bytes]]":
    at = lowered.find(word)
    while at >= 0:
        found = form.match(text, at + len(word))
        if found is not None:
            yield found
        at = lowered.find(word, at + len(word))


def find_in_named_file(text: bytes, file_name: bytes) -> Iterator[Match]:
    """Secrets of files that certain programs read by their names: netrc, pgpass, Rails' master key."""
    known = _NAMED_FILES.get(file_name.lower())
    if known is None:
        return
    for found in known[0].finditer(text):
        if not is_placeholder(found["value"]):
            yield Match(known[1], *found.span("value"), is_specific=True)


def find_in_manifest(text: bytes) -> Iterator[Match]:
    """Values of Kubernetes' manifests of kind `Secret`, which are encoded and not encrypted."""
    if _MANIFEST.search(text) is None:
        return
    for block in _DATA.finditer(text):
        for entry in _ENTRY.finditer(text, *block.span(1)):
            value = unbase64(entry["value"])
            if value and not is_placeholder(value) and not is_worded(value):
                yield Match("kubernetes-secret", *entry.span("value"), is_specific=True)
