"""What Vault's failures mean: the only place that looks at them.

Statuses are those of Vault's HTTP API ("HTTP status codes"); texts were seen with OpenBao 2.7 or stand in the sources
of both. They are only looked at: what is raised is in our own words, because theirs repeat paths, roles and parts of
what was sent. What no row knows is `UNKNOWN`, and refused.
"""

import re
from dataclasses import dataclass
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault.answers import Answer, Trouble

_K = FailureKind
OUTAGES: Final = frozenset({_K.UNREACHABLE, _K.TIMEOUT, _K.RATE_LIMITED})
"""Failures that are about the server, whatever was asked of it."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: FailureKind
    message: str
    hint: str = ""


_SERVER_HINT = "check `url` in broker.yaml, the network, and `vault status` on the server"
_BAD_TOKEN = _Meaning(
    _K.UNAUTHENTICATED,
    "Vault does not accept the token",
    "it may be expired, revoked or of another namespace: put a new one where the old one is",
)
_BAD_LOGIN = _Meaning(
    _K.UNAUTHENTICATED,
    "Vault refuses the login",
    "check role, credentials, `auth_mount` and `namespace`, and what Vault's own audit says of it",
)
_FORBIDDEN = _Meaning(
    _K.FORBIDDEN,
    "Vault's policies do not allow this",
    "give the broker's role the capability that docs/providers.md names for it, or correct the path in secrets.yaml",
)
_UNREADABLE = _Meaning(
    _K.UNKNOWN, "the answer is not one of Vault's", "does `url` name Vault itself? a proxy may answer in its place"
)
_UNKNOWN = _Meaning(_K.UNKNOWN, "Vault failed in a way that is not known", "look into Vault's own log")
_STANDBY = _Meaning(
    _K.UNREACHABLE, "this Vault node is a standby that serves nothing now", "let `url` name the active node"
)
_DOWN = _Meaning(_K.UNREACHABLE, "Vault is out of order", _SERVER_HINT)
_CONFLICT = _Meaning(
    _K.CONFLICT, "the secret has another version by now", "read its version, and write only if that is still meant"
)
_NO_ENGINE = _Meaning(
    _K.NOT_FOUND, "no secrets engine of Vault serves this path", "compare it with `vault secrets list`"
)

_SAID_BY_ALL: Final = frozenset({*range(300, 400), 401, 429, *range(500, 600)})
"""Statuses that mean the same whoever answers, a proxy perhaps, and whatever stands in the body."""
_LOGIN_ROWS: Final = ((range(400, 406), r"", _BAD_LOGIN),)
# Order matters: the first row that fits counts. Texts are matched in lower case.
_ROWS: Final = (
    (
        range(300, 400),
        r"",
        _Meaning(
            _K.UNREACHABLE,
            "Vault sends us to another address, and no redirect is followed",
            "let `url` name the active node or the load balancer, with https",
        ),
    ),
    (range(400, 401), r"check-and-set parameter did not match", _CONFLICT),
    (range(400, 401), r"missing client token", _BAD_TOKEN),
    (
        range(400, 401),
        r"upgrading from non-versioned",
        _Meaning(
            _K.UNREACHABLE,
            "this secrets engine sets itself up and serves nothing yet",
            "it does so by itself within moments; if not, look into Vault's own log",
        ),
    ),
    (
        range(400, 401),
        r"unknown (?:static )?role|role .* not found|no such role",
        _Meaning(_K.NOT_FOUND, "the secrets engine has no such role", "compare the reference with the engine's roles"),
    ),
    (
        range(400, 401),
        r"",
        _Meaning(_K.UNKNOWN, "Vault does not understand the request", "look into Vault's own log"),
    ),
    (range(401, 402), r"", _BAD_TOKEN),
    # A bare "permission denied" is about the token, one within "1 error occurred" about the policies; the session
    # asks Vault once more before it believes the former.
    (range(403, 404), r"invalid token|bad token|^permission denied$", _BAD_TOKEN),
    (range(403, 404), r"", _FORBIDDEN),
    (range(404, 405), r"no handler for route", _NO_ENGINE),
    (
        range(404, 405),
        r"",
        _Meaning(
            _K.NOT_FOUND,
            "Vault has nothing at this path, or not this version of it",
            "write the path as `vault kv get` takes it, without the `data/` of the API",
        ),
    ),
    (range(405, 406), r"", _Meaning(_K.BAD_REFERENCE, "Vault does not let this path be read or written")),
    (
        range(412, 413),
        r"",
        _Meaning(_K.UNREACHABLE, "this Vault node has not caught up yet", "let `url` name the active node"),
    ),
    (
        range(429, 430),
        r"",
        _Meaning(
            _K.RATE_LIMITED, "Vault's rate limit is used up", "see its quotas; longer ttl_seconds cost fewer requests"
        ),
    ),
    (range(472, 474), r"", _STANDBY),
    (
        range(500, 501),
        r"",
        _Meaning(
            _K.UNKNOWN,
            "Vault failed while it served this path",
            "a secrets engine may not reach its database or cloud: look into Vault's own log",
        ),
    ),
    (range(501, 502), r"", _Meaning(_K.UNREACHABLE, "Vault is not initialized", "run `vault operator init`")),
    (
        range(503, 504),
        r"sealed",
        _Meaning(_K.UNREACHABLE, "Vault is sealed", "unseal it: `vault operator unseal`, or its auto-unseal"),
    ),
    (range(503, 504), r"standby|active|leader", _STANDBY),
    (range(502, 505), r"", _DOWN),
)
_TROUBLES: Final = {
    Trouble.TIMEOUT: _Meaning(_K.TIMEOUT, "Vault did not answer in time", _SERVER_HINT),
    Trouble.UNREACHABLE: _Meaning(_K.UNREACHABLE, "Vault cannot be reached", _SERVER_HINT),
    Trouble.TLS: _Meaning(
        _K.UNREACHABLE,
        "Vault's certificate is not vouched for by a known authority, or does not fit its name",
        "name the authority's certificate in `ca_file`, and the host as the certificate does in `url`",
    ),
    Trouble.TOO_LARGE: _Meaning(_K.TOO_LARGE, "the answer is larger than any secret that can be served"),
    Trouble.UNREADABLE: _UNREADABLE,
}


def of_answer(answer: Answer) -> ProviderError:
    """What an answer means that is not the one that was hoped for."""
    return _of(answer, _ROWS)


def of_login(answer: Answer) -> ProviderError:
    """The same for the answer to a login."""
    return _of(answer, (*_LOGIN_ROWS, *_ROWS))


def of_trouble(trouble: Trouble) -> ProviderError:
    """What it means that there is no answer."""
    return _error(_TROUBLES[trouble])


def forbidden() -> ProviderError:
    """The error for what an accepted token may not do."""
    return _error(_FORBIDDEN)


def unreadable_answer() -> ProviderError:
    """The error for an answer that lacks what every Vault says."""
    return _error(_UNREADABLE)


def _of(answer: Answer, rows: tuple[tuple[range, str, _Meaning], ...]) -> ProviderError:
    if answer.trouble is not None and answer.status not in _SAID_BY_ALL:
        return _error(_TROUBLES[answer.trouble])
    text = _text(answer)
    for statuses, pattern, meaning in rows:
        if answer.status in statuses and re.search(pattern, text):
            return _error(meaning, answer.retry_after)
    return _error(_UNREADABLE if answer.is_good else _UNKNOWN)


def _text(answer: Answer) -> str:
    """What Vault's `errors` say, to be looked at only."""
    errors = answer.body.get("errors")
    texts = errors if isinstance(errors, list) else []
    return "\n".join(text for text in texts if isinstance(text, str)).strip().lower()


def _error(meaning: _Meaning, retry_after: int | None = None) -> ProviderError:
    return ProviderError(meaning.kind, meaning.message, retry_after=retry_after, hint=meaning.hint)
