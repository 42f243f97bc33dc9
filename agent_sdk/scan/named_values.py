"""Values that are secrets because of their names: `DB_PASSWORD=…`, `"api_key": "…"`, `--token …`.

A name alone says little (`token_type`, `password_file`), and so does entropy alone (hashes, identifiers). Here both
must agree: a name that is of a secret, and a value that could have been drawn at random and stands as a literal.
"""

import re
from collections.abc import Iterator
from typing import Final

from agent_sdk.scan.match import Match
from agent_sdk.scan.placeholders import entropy, is_placeholder, is_worded

WORDS: Final = (
    b"passw",
    b"passphrase",
    b"passwd",
    b"pwd",
    b"secret",
    b"token",
    b"key",
    b"credential",
    b"auth",
    b"cookie",
    b"webhook",
    b"dsn",
)
"""What is looked for in a text in lower case; a name that has none of these is not judged."""
_PASSWORDS: Final = re.compile(rb"passw(?:or)?d|passphrase|passwd|pwd|(?:^|_|-)pass$|pass_?phrase")
_KEYED: Final = re.compile(
    rb"secret|token|credential|(?:^|[_.-])auth$|authkey|auth_?token|cookie_?secret|"
    rb"(?:api|access|private|secret|account|master|encryption|encrypt|signing|sign|service|app|auth|admin|session|shared|client|"
    rb"license|deploy|storage|root|crypt|hmac|jwt|aes|webhook|write|read|rest|integration|subscription|sharedaccess)[_.-]?key"
    rb"|_key$"
)
_INNOCENT: Final = re.compile(
    rb"public|publishable|pubkey|anon|(?:^|[_.-])(?:no|is|has|use|max|min|num|allow|show|hide|enable|disable|require|forgot|reset|"
    rb"validate|check|get|set|update|change|verify|generate|create|delete|remove|primary|foreign|sort|partition|cache|hash|"
    rb"cursor|next|page|s3|object|bucket|result|input|output|lock|upload|client_request|request|routing|partial|map|continuation|csrf|xsrf|idempotency|dedupe?|translation|i18n|message|label|host|ssh_host|known)[_.-]?"
    rb"(?:\w+[_.-])?(?:key|token|password|secret|passwd|credential)s?$|token(?:s|ize[rd]?|izer|ization|_?limit|_?budget|_?usage)|"
    rb"secret(?:ary|ly|s?manager|_?manager)|keyboard|keyword|keycloak_?(?:url|host)|keystroke|monkey|donkey|turkey|author|"
    rb"(?:file|path|dir|folder|name|names|id|ids|url|uri|endpoint|host|port|type|kind|ref|refs|env|var|length|len|size|policy|field|"
    rb"label|hint|ttl|expiry|expires|expires_?in|expiration|lifetime|count|version|format|regex|pattern|prefix|suffix|header|"
    rb"status|state|mode|method|class|algorithm|alg|hash|digest|hashed|encrypted|sha\d*|fingerprint|thumbprint|checksum|"
    rb"integrity|arn|location|store|provider|scheme|strategy|rotation|enabled|required|template|title|text|desc\w*|placeholder|"
    rb"input|error|message|min|max|column|index|code|map|set|list|usage|server|service|username|user|email|used|at|on|date|time|age|days)$"
)
_ASSIGN: Final = re.compile(
    rb"""[\w.-]{0,40}(?:\\{0,3}["'`])?\]?"""
    rb"""(?P<sep>,?\s{1,80}["']?[vV]alue["']?[ \t]*[:=][ \t]*"""
    rb"""|[ \t]*(?:=>|:=|=(?![=~>])|:(?![:=]))[ \t]*|,[ \t]*(?=["'`])|[ \t]*>(?![=>])|[ \t]+)"""
    rb"""(?:[A-Za-z_][\w.\[\]| ]{0,30}=[ \t]*(?=[bru]?["'`]))?"""
    rb"""(?:[bBrRuUfF@]{0,2}(?P<quote>\\{0,3}["'`])(?P<quoted>[^\r\n]{1,1024}?)(?P=quote)|(?P<bare>[^\s"'`<>,;]{4,512}))"""
)
_NAME: Final = re.compile(rb"[\w.-]*\Z")
_SETTER: Final = re.compile(rb"(?:configure set|\bset(?: -[a-z]+)+|\bsetx|\bsetenv|^ENV|\nENV)[ \t]+\Z")
"""What a name and a value with nothing but a space between them may stand behind."""
_WINDOW: Final = 48
_TOKENISH: Final = re.compile(rb"[A-Za-z0-9+/=_.~:%!@#^&*$-]{12,1024}")
_HEX: Final = re.compile(rb"[0-9a-fA-F]{16,}")
_CALL: Final = re.compile(rb"[\w.]*[(\[{]|&&|\|\||[\w.]+\)")
_SYMBOLS: Final = re.compile(rb"[^A-Za-z0-9_\-./: ]")
_VENDORS: Final = tuple(
    (re.compile(name), re.compile(value), kind)
    for name, value, kind in (
        (rb"aws|secret_?access_?key", rb"[A-Za-z0-9/+]{40}", "aws-secret-access-key"),
        (
            rb"account_?key|storage_?(?:account_?)?key",
            rb"[A-Za-z0-9+/]{76,86}(?:==|\+ASt[A-Za-z0-9+/=]{6,8})?",
            "azure-storage-key",
        ),
        (rb"shared_?access_?key", rb"[A-Za-z0-9+/]{43}=", "azure-shared-access-key"),
        (rb"azure", rb"[0-9a-f]{32}|[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}|[A-Za-z0-9]{84}", "azure-key"),
        (rb"twilio", rb"[0-9a-f]{32}", "twilio-auth-token"),
        (rb"cloud_?flare|(?:^|_)cf_", rb"[A-Za-z0-9_-]{37,40}", "cloudflare-token"),
        (rb"heroku", rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "heroku-key"),
        (rb"vercel", rb"[A-Za-z0-9]{24}", "vercel-token"),
        (rb"mailgun", rb"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}", "mailgun-key"),
        (rb"atlassian|jira|confluence", rb"[A-Za-z0-9]{24}", "atlassian-token"),
        (rb"datadog|(?:^|_)dd_", rb"[0-9a-f]{32}|[0-9a-f]{40}", "datadog-key"),
        (rb"discord", rb"[A-Za-z0-9_-]{32}", "discord-client-secret"),
    )
)
"""Keys without a form of their own, told by a name and a length."""


def judge(name: bytes, value: bytes, *, is_setting: bool) -> str | None:
    """The kind of secret that a named value is.

    Args:
        name: the name as written.
        value: the value without its quotes.
        is_setting: whether it stands in an env file or another configuration, where a literal is a value in use; in
            programs and prose more is asked of it.

    Returns:
        The kind; None if it is no secret, or cannot be told from what is none.
    """
    if not names_a_secret(name) or is_placeholder(value):
        return None
    lowered = _snake(name).lower()
    if _PASSWORDS.search(lowered):
        return "password" if _is_password(value, is_setting=is_setting) else None
    for vendor, form, kind in _VENDORS:
        if vendor.search(lowered) and form.fullmatch(value) and not is_worded(value):
            return kind
    return "generic-secret" if _is_random(value, is_setting=is_setting) else None


def names_a_secret(name: bytes) -> bool:
    """Whether a name is that of a secret, and not of something beside one.

    Args:
        name: the name as written.
    """
    lowered = _snake(name).lower()
    is_of_secret = _PASSWORDS.search(lowered) is not None or _KEYED.search(lowered) is not None
    return is_of_secret and _INNOCENT.search(lowered) is None


def _snake(name: bytes) -> bytes:
    return _HUMPS.sub(rb"_", name)


_HUMPS: Final = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])")


def _is_password(value: bytes, *, is_setting: bool) -> bool:
    """Whether somebody could have chosen or drawn it as a password."""
    if not 6 <= len(value) <= 256 or b"://" in value or value.count(b" ") > (2 if is_setting else 0):
        return False
    if is_setting:
        return not is_worded(value) or (len(value) >= 9 and _is_mixed(value) and not value.startswith((b"/", b".")))
    return len(value) >= 8 and not is_worded(value) and _is_mixed(value) and not _CALL.search(value)


def _is_mixed(value: bytes) -> bool:
    has_digit, has_symbol = re.search(rb"\d", value) is not None, _SYMBOLS.search(value) is not None
    return re.search(rb"[A-Za-z]", value) is not None and (has_digit or has_symbol)


def _is_path(value: bytes) -> bool:
    return value.startswith((b"./", b"../", b"~/", b"#", b"@")) or (
        value.startswith(b"/") and is_worded(value[1:].partition(b"/")[0])
    )


def _is_random(value: bytes, *, is_setting: bool) -> bool:
    """Whether it could have been drawn at random: long, mixed, and no words."""
    if _TOKENISH.fullmatch(value) is None or is_worded(value) or _is_path(value):
        return False
    if _HEX.fullmatch(value):
        return len(value) >= (16 if is_setting else 24) and entropy(value) >= 2.7 and not value.isdigit()
    if len(value) < (12 if is_setting else 16) or not re.search(rb"\d", value) or not re.search(rb"[A-Za-z]", value):
        return False
    return (
        entropy(value) >= (3.0 if len(value) < 20 else 3.4)
        and b"://" not in value
        and not (b"(" in value or b"[" in value)
    )


def find_named(text: bytes, lowered: bytes, *, is_code: bool) -> Iterator[Match]:
    """Find values whose names say that they are secrets.

    Args:
        text: the text.
        lowered: the same in lower case.
        is_code: whether it is a program or prose, where only quoted literals count.
    """
    seen: set[int] = set()
    for word in WORDS:
        at = lowered.find(word)
        while at >= 0:
            yield from _at(text, at, at + len(word), seen, is_code=is_code)
            at = lowered.find(word, at + len(word))


def _at(text: bytes, at: int, end: int, seen: set[int], *, is_code: bool) -> Iterator[Match]:
    found = _ASSIGN.match(text, end)
    if found is None:
        return
    group = "bare" if found["quoted"] is None else "quoted"
    start = found.start(group)
    if start in seen:
        return
    window = text[max(0, at - _WINDOW) : at]
    before = _NAME.search(window)
    assert before is not None
    head, prefix = before[0], window[: before.start()]
    name = head + text[at : found.start("sep")].rstrip(b"\\\"'`]")
    if found["sep"].startswith(b",") and text[found.start("sep") - 1 : found.start("sep")] not in b"\"'`":
        return  # the second of two arguments, and not the value of a quoted name
    if not _is_assigned(name, prefix, found["sep"], is_bare=group == "bare", is_code=is_code):
        return
    value = found[group]
    if group == "bare":
        value = value.rstrip(b")]}\\") if is_code else value.rstrip(b"\\").partition(b"&")[0]
    kind = judge(name, value, is_setting=not is_code)
    if kind is not None:
        seen.add(start)
        yield Match(kind, start, start + len(value), is_specific=kind not in {"password", "generic-secret"})


def _is_assigned(name: bytes, prefix: bytes, separator: bytes, *, is_bare: bool, is_code: bool) -> bool:
    """Whether the separator between a name and a value makes the one the other's, where they stand."""
    if prefix.endswith((b"::", b":")) and not separator.endswith((b" ", b"=")):
        return False  # a part of a name or of an address, such as an ARN
    if prefix.endswith((b"checksum/", b"hash/", b"sha256/")):
        return False  # what Kubernetes' annotations say of a secret's content
    is_flag = name.startswith(b"--")
    if separator.isspace():
        return is_flag or _SETTER.search(prefix) is not None
    if separator.strip() == b">":
        return is_bare and prefix.endswith(b"<")
    if not is_bare or not is_code:
        return True
    # a literal without quotes in a program: part of a connection string, or of a command line
    return (prefix.rstrip().endswith(b";") and separator == b"=") or (is_flag and separator == b"=")
