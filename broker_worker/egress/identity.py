"""Who calls: the run's identity token, wherever a service's SDK puts what it takes for its key.

The token stands in the place of the key: in `Authorization` (Bearer, token or Basic), in one of the headers that
services have invented for keys, or where the route itself puts the value. All of these places are emptied, whoever
wrote them, before the call goes on.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from agent_sdk.wire.messages import MAX_PROOF, MAX_TOKEN, Subject
from broker_worker.core.egress import PLACE, Route
from broker_worker.egress.problems import Refusal, unauthenticated

PROOF_HEADER = "workload-proof-token"
"""Where a proof of possession stands (draft-ietf-wimse-wpt)."""
KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key", "private-token", "workload-identity-token")
CREDENTIAL_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", PROOF_HEADER, *KEY_HEADERS, "x-auth-token", "x-access-token"}
)
"""Headers in which a credential may stand; none of them goes on as it came."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+|sbt_[A-Za-z0-9._-]+", re.ASCII)
_PROOF = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as it says; only the broker knows whether it is true.

    Args:
        subject: what it showed.
        query: the request's query without the credential.
        expires_at: when its token says that it is over, ms since the epoch; None if it does not say.
    """

    subject: Subject
    query: str | None
    expires_at: int | None


def identify(headers: CIMultiDictProxy[str], route: Route, query: str | None) -> Caller:
    """Find out who calls.

    Args:
        headers: the request's.
        route: the route; where it puts the value, its caller may have put the token.
        query: the request's query.

    Raises:
        Refusal: if there is no token, something else in its place, or two different ones.
    """
    found = set(_in_headers(headers, route))
    if route.send.kind == "query" and query is not None:
        mine, query = _out_of_query(query, route.send.name)
        found.update(mine)
    if not found:
        raise unauthenticated("this needs the run's identity token where the service's key would be")
    if len(found) > 1:
        raise unauthenticated("two different credentials stand in this request: expected the run's identity token")
    token = found.pop()
    if len(token) > MAX_TOKEN or (form := _TOKEN.fullmatch(token)) is None:
        raise unauthenticated("what stands where the key would be is no identity token of a run")
    return Caller(Subject(token, _proof(headers)), query, _expiry(form[1]))


def _in_headers(headers: CIMultiDictProxy[str], route: Route) -> Iterator[str]:
    for text in headers.getall("authorization", ()):
        scheme, _, rest = text.partition(" ")
        if scheme.lower() in {"bearer", "token"}:
            yield rest.strip(" ")
        elif scheme.lower() == "basic":
            yield _password(rest.strip(" "))
        elif text:
            yield text
    for name in KEY_HEADERS:
        yield from headers.getall(name, ())
    own = route.send.header
    if own is not None and own != "authorization" and own not in KEY_HEADERS:
        before, _, after = route.send.template.partition(PLACE)
        for text in headers.getall(own, ()):
            yield text.removeprefix(before).removesuffix(after)


def _password(text: str) -> str:
    """The password of basic authentication, or the user if that is all there is: some programs send a key so."""
    try:
        user, _, password = base64.b64decode(text.encode("ascii"), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        return text  # no token, and refused as such
    return user if password in {"", "x-oauth-basic"} else password


def _out_of_query(query: str, key: str) -> tuple[list[str], str | None]:
    """The values of a key, and the query without it, whatever encoding its name came in."""
    kept: list[str] = []
    found: list[str] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote(name.replace("+", " ")).strip().lower() == key.lower():
            found.append(unquote(value))
        else:
            kept.append(pair)
    return found, "&".join(kept) if kept else None


def _proof(headers: CIMultiDictProxy[str]) -> str | None:
    proofs = headers.getall(PROOF_HEADER, ())
    if not proofs:
        return None
    if len(proofs) > 1 or len(proofs[0]) > MAX_PROOF or _PROOF.fullmatch(proofs[0]) is None:
        raise Refusal(401, "unauthenticated", "expected one proof token")
    return proofs[0]


@lru_cache(maxsize=1024)
def _expiry(payload: str | None) -> int | None:
    """What an unverified token says of its end. It only ever shortens how long an answer is remembered."""
    try:
        claims = json.loads(base64.urlsafe_b64decode((payload or "") + "=="))
        seconds = claims["exp"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return seconds * 1000 if type(seconds) is int else None
