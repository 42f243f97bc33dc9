"""What a Connect server's failures mean: the only place that looks at them.

A status decides; where one status means several things, so does Connect's own text, which is only looked at. What is
raised is in our own words, because an answer may hold anything. What no row knows is `UNKNOWN`, and refused.

Sources: "1Password Connect Server API reference" with its OpenAPI description, and Connect's public issues.
"""

import re
from dataclasses import dataclass
from typing import Final

import httpx

from broker_worker.core.errors import FailureKind, ProviderError

_K = FailureKind
MOST_WAIT: Final = 3600
"""Longest wait that a server can ask for, in seconds."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: FailureKind
    message: str
    hint: str = ""


_CHECK_SERVER: Final = "check that Connect runs, `url` in broker.yaml, and the network in between"
_COMPARE: Final = "compare the reference in secrets.yaml with 1Password, and the vaults that the token was given"

_UNAUTHENTICATED = _Meaning(
    _K.UNAUTHENTICATED,
    "Connect does not accept the access token",
    "it may be expired, revoked or incomplete: create a new one and put it where the old one is",
)
_FORBIDDEN = _Meaning(
    _K.FORBIDDEN,
    "Connect refuses the access token this access",
    "check the vaults that the token was given, and whether it may write",
)
_NO_VAULT = _Meaning(_K.NOT_FOUND, "no vault matches the reference", _COMPARE)
_NO_ITEM = _Meaning(_K.NOT_FOUND, "no item matches the reference", _COMPARE)
_NO_FILE = _Meaning(_K.NOT_FOUND, "no file of the item matches the reference", _COMPARE)
_BAD_ID = _Meaning(_K.BAD_REFERENCE, "Connect does not take an id of the reference for one", _COMPARE)
_REFUSED = _Meaning(_K.UNKNOWN, "Connect refuses the request", "its log says why")
_REDIRECT = _Meaning(
    _K.UNKNOWN,
    "Connect's address redirects elsewhere, which is not followed",
    "write the address that it leads to as `url`, if it is yours",
)
_SOMETHING_ELSE = _Meaning(
    _K.UNKNOWN,
    "what answers is not Connect: its answer is no JSON of the form that is expected",
    "check `url` in broker.yaml; something in between may change answers: a proxy?",
)
_CONFLICT = _Meaning(_K.CONFLICT, "somebody else changed the vault at the same moment", "try again")
_TOO_LARGE = _Meaning(_K.TOO_LARGE, "Connect finds it too large")
_RATE_LIMITED = _Meaning(_K.RATE_LIMITED, "Connect asks to wait", "longer ttl_seconds cost fewer requests")
_OUT_OF_ORDER = _Meaning(_K.UNREACHABLE, "Connect is out of order, or cannot reach 1Password", "its log says why")
_UNREACHABLE = _Meaning(_K.UNREACHABLE, "Connect cannot be reached", _CHECK_SERVER)
_UNTRUSTED = _Meaning(
    _K.UNREACHABLE,
    "Connect's certificate is not to be trusted",
    "name the certificate of your own authority as `ca_file`; check that `url` has the host that it is made for",
)
_TIMEOUT = _Meaning(_K.TIMEOUT, "Connect did not answer in time", _CHECK_SERVER)
_UNKNOWN = _Meaning(_K.UNKNOWN, "Connect failed in a way that is not known", "its log says why")

# Order matters: the first row whose status and text fit counts. Texts are matched in lower case.
_STATUSES: Final = (
    (range(401, 402), re.compile(r"does not have (?:\w+ )?access"), _FORBIDDEN),
    (range(401, 402), re.compile(""), _UNAUTHENTICATED),
    (range(403, 404), re.compile(""), _FORBIDDEN),
    (range(404, 405), re.compile(r"^vault .*not found"), _NO_VAULT),
    (range(404, 405), re.compile(r"^item .*not found"), _NO_ITEM),
    (range(404, 405), re.compile(r"^file .*not found"), _NO_FILE),
    (range(404, 405), re.compile(""), _SOMETHING_ELSE),
    (range(400, 401), re.compile(r"^invalid (?:vault|item|file) uuid"), _BAD_ID),
    (range(400, 401), re.compile(""), _REFUSED),
    (range(408, 409), re.compile(""), _TIMEOUT),
    (range(409, 410), re.compile(""), _CONFLICT),
    (range(413, 414), re.compile(""), _TOO_LARGE),
    (range(429, 430), re.compile(""), _RATE_LIMITED),
    (range(504, 505), re.compile(""), _TIMEOUT),
    (range(500, 600), re.compile(""), _OUT_OF_ORDER),
    (range(300, 400), re.compile(""), _REDIRECT),
)


def of_answer(status: int, message: str, retry_after: str) -> ProviderError:
    """What an answer other than a success means.

    Args:
        status: its HTTP status.
        message: Connect's own text; empty if there is none, as in the answer of something else.
        retry_after: its header of this name; empty if there is none.
    """
    text = message.lower()
    meaning = next((found for range_, row, found in _STATUSES if status in range_ and row.search(text)), _UNKNOWN)
    return _error(meaning, _milliseconds(retry_after))


def of_exception(error: BaseException) -> ProviderError:
    """What an exception of httpx, or of waiting for it, means.

    Args:
        error: what was raised. It is not kept, and nothing of its text is: raise the result outside the `except`
            block, so that it does not become its context either.
    """
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return _error(_TIMEOUT)
    if isinstance(error, httpx.ConnectError) and "certificate" in str(error).lower():
        return _error(_UNTRUSTED)
    if isinstance(error, (httpx.TransportError, OSError)):
        return _error(_UNREACHABLE)
    return _error(_UNKNOWN)


def unreadable_answer() -> ProviderError:
    """The error for an answer that is not of the form that Connect's description gives."""
    return _error(_SOMETHING_ELSE)


def no_vault() -> ProviderError:
    """The error for a vault that the token does not see."""
    return _error(_NO_VAULT)


def no_item() -> ProviderError:
    """The error for an item that is not there, or only archived."""
    return _error(_NO_ITEM)


def answer_too_long(most: int) -> ProviderError:
    """The error for an answer that is not read to its end."""
    return ProviderError(
        FailureKind.TOO_LARGE,
        f"Connect's answer has more than {most} bytes",
        hint="keep secrets in items and files of their own",
    )


def _milliseconds(retry_after: str) -> int | None:
    """The wait in ms that a server asks for (RFC 9110, section 10.2.3); dates are not read."""
    if not (retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9):
        return None
    return min(int(retry_after), MOST_WAIT) * 1000


def _error(meaning: _Meaning, retry_after: int | None = None) -> ProviderError:
    return ProviderError(meaning.kind, meaning.message, retry_after=retry_after, hint=meaning.hint)
