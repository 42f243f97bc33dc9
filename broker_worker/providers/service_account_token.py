"""1Password service-account tokens: `ops_` and JSON in base64, which names the server that the token is sent to.

The SDK connects to whatever address a token names, plain HTTP and ports included. So a forged token could send the
broker anywhere; here the address is held against the hosts that 1Password runs before the SDK sees the token.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from broker_worker.core.errors import FailureKind, ProviderError

MAX_TOKEN: Final = 8192
_PREFIX: Final = "ops_"
_BODY = re.compile(r"[A-Za-z0-9+/]+", re.ASCII)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ADDRESS = re.compile(rf"(?:https://)?((?:{_LABEL}\.){{1,4}}1password\.(?:com|ca|eu))/?", re.ASCII)
_COPY_AGAIN: Final = "copy the whole token again, from ops_ to its end, or create a new one"

AddressCheck = Callable[[str], str]
"""Takes the address that a token names and returns its host, or raises `ProviderError`."""


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """A token whose server was checked.

    Args:
        text: the token; never shown by `repr`.
        host: the host that it will be sent to.
    """

    text: str = field(repr=False)
    host: str


def require_1password_host(address: str) -> str:
    """Accept an address only if it is HTTPS, on the usual port, of a host below 1password.com, .ca or .eu.

    Args:
        address: the token's `signInAddress`, with or without `https://`.

    Returns:
        The host.

    Raises:
        ProviderError: kind `UNAUTHENTICATED` for anything else. The address is not repeated: it may be anything.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        _refuse(
            "names a server that is not one of 1Password's (https://….1password.com, .ca or .eu)",
            "do not use this token: somebody may have made it to catch secrets; create a new one in 1Password",
        )
    return found[1]


def parse_service_account_token(text: str, check_address: AddressCheck = require_1password_host) -> ServiceAccountToken:
    """Read a token as strictly as the SDK does, and check where it would be sent.

    Args:
        text: the token; white space around it is dropped.
        check_address: which servers count.

    Raises:
        ProviderError: kind `UNAUTHENTICATED`; nothing of the token is repeated.
    """
    text = text.strip()
    if not text:
        _refuse("is empty", _COPY_AGAIN)
    if len(text) > MAX_TOKEN or not text.startswith(_PREFIX):
        _refuse("does not begin with ops_" if len(text) <= MAX_TOKEN else "is too long", _COPY_AGAIN)
    claims = _claims(text.removeprefix(_PREFIX))
    address = claims.get("signInAddress") if isinstance(claims, dict) else None
    if not isinstance(address, str):
        _refuse("names no server", _COPY_AGAIN)
    return ServiceAccountToken(text, check_address(address))


def _claims(body: str) -> Any:
    """Decode the token's JSON; None for anything else, so that no exception carries parts of the token."""
    if _BODY.fullmatch(body) is None:
        return None
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        return json.loads(raw, object_pairs_hook=_without_repetition)
    except (binascii.Error, ValueError, RecursionError):
        return None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise ValueError("a key is repeated")
    return claims


def _refuse(what: str, hint: str) -> NoReturn:
    raise ProviderError(FailureKind.UNAUTHENTICATED, f"the 1Password service-account token {what}", hint=hint)
