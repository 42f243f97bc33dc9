"""From an HTTP request to what is asked and by whom.

What could mean two things is refused, and nothing that was sent is repeated: a value may have been sent by mistake.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from starlette.datastructures import Headers

from agent_sdk.wire.codec import explain
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_NAMES, MAX_PROOF, MAX_PURPOSE, MAX_TOKEN, MAX_TTL_SECONDS, Subject
from agent_sdk.wire.names import check_run_id, is_agent_id, is_secret_name
from agent_sdk.wire.static_tokens import PREFIX
from broker_worker.gateway.problems import Problem, unauthenticated

AGENT, RUN = "X-Agent-Id", "X-Agent-Run-Id"
PROOF, IDENTITY = "Workload-Proof-Token", "Workload-Identity-Token"
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_CREDENTIALS: Final = re.compile(r"(Bearer|WPT) +([^ ]+)", re.ASCII | re.IGNORECASE)


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request: 1 to 64 names, what they are for, and for how long they are wanted."""

    secrets: Annotated[list[str], Meta(min_length=1, max_length=MAX_NAMES)]
    purpose: Annotated[str, Meta(max_length=MAX_PURPOSE)] = ""
    ttl_seconds: Annotated[int, Meta(ge=1, le=MAX_TTL_SECONDS)] | None = None

    def __repr__(self) -> str:
        """Nothing of it."""
        return "<wanted>"


def read_subject(headers: Headers) -> Subject:
    """Who asks, as it shows itself; the broker verifies it.

    Either `Authorization: Bearer TOKEN`, with `Workload-Proof-Token` where a proof is wanted, or as
    draft-ietf-wimse-wpt-02 has it, `Authorization: WPT PROOF` with `Workload-Identity-Token: TOKEN`.

    Raises:
        Problem: 401 if nothing that could be good is shown, 400 if what is shown contradicts itself.
    """
    token, proof = _shown(headers)
    agent, run = _one(headers, AGENT), _one(headers, RUN)
    if agent is None or not is_agent_id(agent):
        raise _invalid(f"{AGENT} must be the id of the agent that the token is for")
    if run is None and not token.startswith(PREFIX):
        raise _invalid(f"{RUN} must be the id of the run that the token is for; only a static token needs none")
    if run is not None and not _is_run(run):
        raise _invalid(f"{RUN} is not the id of a run")
    return Subject(token, proof, agent, run)


def _is_run(text: str) -> bool:
    try:
        return check_run_id(text) == text
    except WireError:
        return False


def _shown(headers: Headers) -> tuple[str, str | None]:
    given = _one(headers, "Authorization")
    proof, identity = _one(headers, PROOF), _one(headers, IDENTITY)
    found = _CREDENTIALS.fullmatch(given or "")
    if found is None:
        raise unauthenticated()
    if found[1].lower() == "wpt":
        if proof is not None:
            raise _invalid(f"a proof is in Authorization or in {PROOF}, not in both")
        token, proof = identity, found[2]
    else:
        if identity is not None:
            raise _invalid(f"a token is in Authorization or in {IDENTITY}, not in both")
        token = found[2]
    if token is None or not _is_token(token, MAX_TOKEN) or not (proof is None or _is_token(proof, MAX_PROOF)):
        raise unauthenticated()
    return token, proof


def _is_token(text: str, limit: int) -> bool:
    return len(text) <= limit and _TOKEN68.fullmatch(text) is not None


def _one(headers: Headers, name: str) -> str | None:
    """The one field of a name; several could be read differently by whoever stands between."""
    found = headers.getlist(name)
    if len(found) > 1:
        raise _invalid(f"{name} may stand once")
    return found[0] if found else None


def check_media_type(headers: Headers) -> None:
    """Refuse every body but JSON: a browser sends no JSON to another site without asking first.

    Raises:
        Problem: 415.
    """
    given = (_one(headers, "Content-Type") or "").lower().split(";")
    if given[0].strip() != "application/json" or [part.strip() for part in given[1:]] not in ([], ["charset=utf-8"]):
        raise Problem(415, "unsupported_media_type", "the body must be of type application/json, in UTF-8")


def read_wanted(raw: bytes) -> Wanted:
    """What is asked, from the body.

    Raises:
        Problem: 400; it says where the body is wrong and not what it says.
    """
    problem = None
    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        wanted = msgspec.convert(parsed, Wanted)
    except _TwiceError:
        problem = "a key stands twice in one object"
    except msgspec.ValidationError as error:
        problem = explain(error, "")
    except (ValueError, RecursionError):
        problem = "not JSON in UTF-8 (RFC 8259)"
    if problem is not None:  # raised out here, so that no context keeps the body alive
        raise _invalid(f"body: {problem}")
    for place, name in enumerate(wanted.secrets):
        if not is_secret_name(name):
            raise _invalid(f"body: secrets[{place}] is not a canonical secret name, such as openai_key")
    if len(set(wanted.secrets)) != len(wanted.secrets):
        raise _invalid("body: a name stands twice in secrets")
    if not wanted.purpose.isascii() and any("\ud800" <= character <= "\udfff" for character in wanted.purpose):
        raise _invalid("body: purpose has half of a surrogate pair")
    return wanted


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _no_constant(_text: str) -> None:
    raise ValueError


def _invalid(detail: str) -> Problem:
    return Problem(400, "invalid", detail)
