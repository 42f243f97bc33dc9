"""What 1Password's failures mean: the only place that looks at them.

The SDK has one typed exception (`RateLimitExceededException`), typed errors for single references, and a text for
everything else; at sign-in even a rate limit is a text. Texts were collected from version 0.4.2 against a local
server and from its library. They are only looked at: what is raised is in our own words, because the SDK's may hold
references, addresses or values. What no row knows is `UNKNOWN`, and refused.
"""

import re
from dataclasses import dataclass
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError

_K = FailureKind


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: FailureKind
    message: str
    hint: str = ""


_RATE_LIMITED = _Meaning(
    _K.RATE_LIMITED,
    "1Password's rate limit for this service account is used up",
    "see `op service-account ratelimit`; longer ttl_seconds cost fewer requests",
)
_UNAUTHENTICATED = _Meaning(
    _K.UNAUTHENTICATED,
    "1Password does not accept the service-account token",
    "it may be expired, revoked or incomplete: create a new one and put it where the old one is",
)
_FORBIDDEN = _Meaning(
    _K.FORBIDDEN,
    "1Password refuses the service account this access",
    "check the vaults that it was given and the account's firewall rules",
)
_UNREACHABLE = _Meaning(
    _K.UNREACHABLE, "1Password cannot be reached or is out of order", "check network, proxy and status.1password.com"
)
_TIMEOUT = _Meaning(_K.TIMEOUT, "1Password did not answer in time", "check network, proxy and status.1password.com")
_GARBAGE = _Meaning(
    _K.UNKNOWN, "1Password's answer cannot be read", "something between here and 1Password may change answers: a proxy?"
)
_UNKNOWN = _Meaning(_K.UNKNOWN, "1Password failed in a way that is not known", "try a newer onepassword-sdk")

# Order matters: a status or a rate limit counts whatever it is wrapped in. Texts are matched in lower case.
_TEXTS: Final = (
    (re.compile(r"rate limit exceeded|status[a-z ]*: 429|\b429 too many requests"), _RATE_LIMITED),
    (re.compile(r"status[a-z ]*: 401|\b401 unauthorized"), _UNAUTHENTICATED),
    (re.compile(r"status[a-z ]*: 403|\b403 forbidden"), _FORBIDDEN),
    (re.compile(r"status[a-z ]*: 5\d\d|internal server error|error sending request"), _UNREACHABLE),
    (re.compile(r"request timeout|status[a-z ]*: 408|timed out"), _TIMEOUT),
    (re.compile(r"you don't have the right permissions|you do not have the right permissions"), _FORBIDDEN),
    (re.compile(r"not authenticated|bad credentials|session expired|account couldn't be found"), _UNAUTHENTICATED),
    (re.compile(r"service account token|service account deserialization failed"), _UNAUTHENTICATED),
    (re.compile(r"when deserializing http responses|length mismatch when processing results"), _GARBAGE),
)

# What only the reading and writing of items meets; tried before the others.
_ITEM_TEXTS: Final = (
    (
        re.compile(r"conflict occurred on the server|race condition when updating items|incorrect item version"),
        _Meaning(_K.CONFLICT, "somebody else changed the vault at the same moment", "try again"),
    ),
    (re.compile(r"permissions? to perform this action|not sufficient permissions"), _FORBIDDEN),
    (re.compile(r"item is too big"), _Meaning(_K.TOO_LARGE, "1Password finds the item too large")),
    (
        re.compile(r"resource not found|item was not found|item not found"),
        _Meaning(_K.NOT_FOUND, "no vault or item matches the reference"),
    ),
)

_NOT_FOUND_HINT = "compare the reference in secrets.yaml with 1Password, and the vaults the service account was given"
_AMBIGUOUS_HINT = "use the unique id in place of the name: op://<vault id>/<item id>/<field id>"
_REFERENCES: Final = {
    "parsing": _Meaning(_K.BAD_REFERENCE, "the reference is not of the form op://vault/item/[section/]field"),
    "vaultNotFound": _Meaning(_K.NOT_FOUND, "no vault matches the reference", _NOT_FOUND_HINT),
    "itemNotFound": _Meaning(_K.NOT_FOUND, "no item matches the reference", _NOT_FOUND_HINT),
    "noMatchingSections": _Meaning(_K.NOT_FOUND, "no section of the item matches the reference", _NOT_FOUND_HINT),
    "fieldNotFound": _Meaning(_K.NOT_FOUND, "no field of the item matches the reference", _NOT_FOUND_HINT),
    "tooManyVaults": _Meaning(_K.AMBIGUOUS, "more than one vault matches the reference", _AMBIGUOUS_HINT),
    "tooManyItems": _Meaning(_K.AMBIGUOUS, "more than one item matches the reference", _AMBIGUOUS_HINT),
    "tooManyMatchingFields": _Meaning(_K.AMBIGUOUS, "more than one field matches the reference", _AMBIGUOUS_HINT),
    "incompatibleTOTPQueryParameterField": _Meaning(_K.BAD_REFERENCE, "the field is no one-time password"),
    "incompatibleSshKeyQueryParameterField": _Meaning(_K.BAD_REFERENCE, "the field is no SSH key"),
    "sSHKeyMetadataNotFound": _Meaning(_K.BAD_REFERENCE, "the field has no attributes of an SSH key"),
    "unsupportedFileFormat": _Meaning(_K.BAD_REFERENCE, "the attached file is not a text"),
    "unableToGenerateTotpCode": _Meaning(_K.UNKNOWN, "1Password could not make the one-time password"),
    "unableToParsePrivateKey": _Meaning(_K.UNKNOWN, "1Password could not read the private key"),
    "unableToFormatPrivateKeyToOpenSsh": _Meaning(_K.UNKNOWN, "1Password could not convert the private key"),
    "other": _UNKNOWN,
}


def of_exception(error: BaseException) -> ProviderError:
    """What an exception of the SDK, or of waiting for it, means for every reference of the call.

    Args:
        error: what was raised. It is not kept, and nothing of its text is: raise the result outside the `except`
            block, so that it does not become its context either.
    """
    if isinstance(error, TimeoutError):
        return _error(_TIMEOUT)
    kind = type(error).__name__
    if kind == "RateLimitExceededException":
        return _error(_RATE_LIMITED)
    if kind == "ValidationError":
        return _error(_GARBAGE)
    text = str(error).lower()
    return _error(next((meaning for pattern, meaning in _TEXTS if pattern.search(text)), _UNKNOWN))


def of_item_exception(error: BaseException) -> ProviderError:
    """What an exception of the SDK means where an item is read or written.

    Args:
        error: what was raised; see `of_exception`.
    """
    text = str(error).lower()
    found = next((meaning for pattern, meaning in _ITEM_TEXTS if pattern.search(text)), None)
    return of_exception(error) if found is None or type(error).__name__ == "ValidationError" else _error(found)


def of_reference(error_type: str) -> ProviderError:
    """What the SDK's typed error of a single reference means.

    Args:
        error_type: its `type`, such as `itemNotFound`.
    """
    return _error(_REFERENCES.get(error_type, _UNKNOWN))


def unreadable_answer() -> ProviderError:
    """The error for an answer that lacks what was asked for."""
    return _error(_GARBAGE)


def _error(meaning: _Meaning) -> ProviderError:
    return ProviderError(meaning.kind, meaning.message, hint=meaning.hint)
