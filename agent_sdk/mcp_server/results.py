"""What each tool returns, and how a refusal is told. Nothing here has a field for a value."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from mcp_types import CallToolResult, TextContent
from msgspec import Meta, Struct

from agent_sdk.errors import LeaseExpired, Refusal
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code, SecretBrokerError

ADVICE: Final[dict[Code, str]] = {
    Code.DENIED: "the policy does not allow it, or there is no such name. Do not try other names, and do not look for "
    "the value elsewhere: tell the user which name you need and what for",
    Code.UNAUTHENTICATED: "the broker does not accept this run. Ask the user to start the server again",
    Code.EXPIRED: "the run is over. Ask the user to start the server again",
    Code.REVOKED: "it was taken back. Stop using it, and tell the user",
    Code.RATE_LIMITED: "wait as many seconds as retry_after says, then ask once more",
    Code.APPROVAL_PENDING: "people have to approve it. Give the user the link, then make the same call again with the "
    "same names and purpose; wait_seconds lets it wait",
    Code.APPROVAL_DENIED: "a person refused it. Do not ask again: tell the user",
    Code.APPROVAL_EXPIRED: "nobody decided in time. Ask the user whether to ask again",
    Code.UNAVAILABLE: "the broker, its vault or the proxy cannot serve now. Try once more in a minute, then tell the "
    "user",
    Code.AUDIT_UNAVAILABLE: "the broker cannot write its audit and releases nothing. Tell the user",
    Code.CONFLICT: "the name is taken, or has another version by now; nothing was written. Name the version as "
    "`replaces` only if the user wants it replaced",
    Code.INVALID: "correct the arguments",
    Code.TOO_LARGE: "it is too large: ask for less",
}
"""What a model should do, by code."""


class Granted(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A secret that this server holds for the run."""

    name: str
    until: Annotated[str, Meta(description="When it ends, RFC 3339; missing if it does not end by itself.")] = ""


class Refused(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A secret that was not granted."""

    name: str
    code: Annotated[str, Meta(description="A stable code, such as denied or approval_pending.")]
    advice: Annotated[str, Meta(description="What to do.")]
    retry_after: Annotated[float, Meta(description="Seconds after which asking again may help.")] | None = None
    approval: Annotated[str, Meta(description="The id of the approval that people decide on.")] = ""
    link: Annotated[str, Meta(description="Where people decide; for the user to open.")] = ""


class Names(Struct, forbid_unknown_fields=True):
    """Result of `list_secrets`."""

    names: list[str]


class Access(Struct, forbid_unknown_fields=True):
    """Result of `request_access`."""

    granted: list[Granted]
    refused: list[Refused]


class CommandResult(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Result of `run_command`. What a secret's value stood for reads [masked NAME]."""

    exit_code: Annotated[
        int | None, Meta(description="As the program left it; negative: the signal that ended it; null: timed out.")
    ]
    stdout: str
    stderr: str
    ended: Annotated[str, Meta(description="Why the server ended the program: timeout or revoked.")] = ""
    left_out: Annotated[int, Meta(description="Bytes of output that are not shown.")] = 0


class RouteResult(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Result of `call_route`."""

    status: int
    headers: dict[str, str]
    body: str
    left_out: Annotated[int, Meta(description="Bytes of the body that are not shown.")] = 0
    refused: Annotated[str, Meta(description="The code, if it was the proxy that refused the call.")] = ""
    advice: Annotated[str, Meta(description="What to do about that.")] = ""
    approvals: Annotated[list[str], Meta(description="The ids of the approvals that people decide on.")] = []
    link: Annotated[str, Meta(description="Where people decide; for the user to open.")] = ""


class Stored(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Result of `generate_secret` and `store_secret`."""

    name: str
    version: Annotated[str, Meta(description="Name it as `replaces` to replace this very version.")] = ""


class ToolRefused(Exception):  # noqa: N818  # read in `raise ToolRefused(...)`, as the SDK's own are
    """Nothing was done; the model is told why and what to do.

    Args:
        code: a stable code.
        message: what was found and expected; no value.
        advice: what to do, if not what the code says.
    """

    def __init__(self, code: Code, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.advice = advice or ADVICE[code]


class RefusedNames(Exception):  # noqa: N818  # as above
    """Secrets that a call needs were not granted, so nothing was done.

    Args:
        refusals: each with its code and what to do.
    """

    def __init__(self, refusals: Sequence[Refused]) -> None:
        super().__init__(", ".join(f"{each.name} ({each.code})" for each in refusals))
        self.refusals = tuple(refusals)


def refused_names(refusals: Iterable[Refusal], link: Callable[[Sequence[str]], str]) -> RefusedNames:
    """The exception for names that were refused.

    Args:
        refusals: the broker's.
        link: where people decide on some approvals.
    """
    return RefusedNames([refused(each, link([each.approval]) if each.approval else "") for each in refusals])


def granted(secret: Secret) -> Granted:
    """A secret as a model sees it."""
    return Granted(secret.name, "" if secret.expires_at is None else _moment(secret.expires_at))


def refused(refusal: Refusal, link: str) -> Refused:
    """A refusal as a model sees it.

    Args:
        refusal: the broker's.
        link: where people decide; empty if there is no such place.
    """
    approval = refusal.approval or ""
    return Refused(
        refusal.name, str(refusal.code), ADVICE[refusal.code], refusal.retry_after, approval, link if approval else ""
    )


def result_of(value: Struct, *, is_error: bool = False) -> CallToolResult:
    """A tool's result, as structure and, for clients that do not read that, as text."""
    return CallToolResult(
        content=[TextContent(type="text", text=msgspec.json.encode(value).decode())],
        structured_content=msgspec.to_builtins(value),
        is_error=is_error,
    )


def refusal_of(error: ToolRefused | RefusedNames) -> CallToolResult:
    """The result of a call that did nothing: an `error:` line, a `hint:` line, and each refused name as JSON."""
    if isinstance(error, ToolRefused):
        lines = [f"error: {error.code}: {error}", f"hint: {error.advice}"]
    else:
        advice = dict.fromkeys(each.advice for each in error.refusals)
        lines = [f"error: not granted: {error}", *(f"hint: {each}" for each in advice)]
        lines += [msgspec.json.encode(each).decode() for each in error.refusals]
    return CallToolResult(content=[TextContent(type="text", text="\n".join(lines))], is_error=True)


def told(error: SecretBrokerError) -> ToolRefused:
    """What a model is told of a request that was not granted as a whole."""
    is_only_a_lease = isinstance(error, LeaseExpired) and error.code == Code.EXPIRED
    return ToolRefused(error.code, str(error), "call again with the same purpose" if is_only_a_lease else "")


def schema_of(kind: type[Struct]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a structure, whole: clients need not follow references."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    whole = _inlined(schema, components)
    if not isinstance(whole, dict):
        raise TypeError("the schema of a structure is an object")
    whole.pop("title", None)
    whole.pop("description", None)
    return whole


def _inlined(node: Any, components: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(components[node["$ref"]], components)
        return {key: _inlined(each, components) for key, each in node.items()}
    return [_inlined(each, components) for each in node] if isinstance(node, list) else node


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
