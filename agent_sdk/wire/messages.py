"""Requests, replies and notices: the plaintexts inside sealed envelopes (docs/protocol.md, "Messages").

Every value here is frozen and checked when it is decoded. Times are milliseconds since the Unix epoch, UTC.
Field order is the order on the wire; fields that have their default are left out.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.names import MAX_AGENT_ID, MAX_RUN_ID, MAX_SECRET_NAME, is_secret_name

MAX_NAMES = 64
MAX_PURPOSE = 256
MAX_TOKEN = 4096
MAX_VALUE = 128 * 1024
MAX_TIME = 2**53 - 1
MAX_TTL_SECONDS = 30 * 24 * 3600
MAX_RECIPE = 64
MAX_PROOF = 2048
MAX_CALLS = 64
MAX_VERSION = 128
MAX_LISTED = 1024

RequestId = Annotated[bytes, Meta(min_length=16, max_length=16)]
LeaseId = Annotated[bytes, Meta(min_length=16, max_length=16)]
LeaseToken = Annotated[bytes, Meta(min_length=17, max_length=512)]
"""What a run shows to renew or to give back a lease. Only the broker reads more than its first 16 bytes, the id."""
ApprovalId = Annotated[bytes, Meta(min_length=8, max_length=8)]
Time = Annotated[int, Meta(ge=0, le=MAX_TIME)]
Ttl = Annotated[int, Meta(ge=1, le=MAX_TTL_SECONDS)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET_NAME)]
Purpose = Annotated[str, Meta(max_length=MAX_PURPOSE)]
Value = Annotated[bytes, Meta(max_length=MAX_VALUE)]
Version = Annotated[str, Meta(max_length=MAX_VERSION)]
Replaced = Annotated[str, Meta(min_length=1, max_length=MAX_VERSION)]
"""The version that a write is to replace."""
Source = Literal["cache", "provider", "stale"]
"""Where a value came from."""
Way = Literal["value", "env", "file", "proxy"]
"""How a value reaches the work: into the agent's own code, into the environment or a file of a program that it starts,
or only into a request that a proxy makes for it."""
Delivery = Literal["value", "env", "file", "proxy", "env,file"]
"""How a request wants one value: in one way, or in the environment and in a file of the same program."""
OwnDelivery = Literal["value", "env", "file", "env,file"]
"""How a run can want a value for itself."""
Ways = Annotated[tuple[Way, ...], Meta(min_length=1, max_length=4)]
RichFields = list[tuple[str, Any]]


class _Op(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="op", gc=False):
    pass


class Subject(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """On whose behalf somebody else asks: what the run, or the script, showed of itself (RFC 8693, "subject_token").

    `token` is a run's identity token or an agent's static token; `proof` a proof that whoever showed the identity token
    holds the run's key (docs/protocol.md, "On behalf of a run"). `agent` and `run` are what it called itself besides,
    if it was asked to: the broker refuses what disagrees with the token.
    """

    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN)]
    proof: Annotated[str, Meta(min_length=1, max_length=MAX_PROOF)] | None = None
    agent: Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_ID)] | None = None
    run: Annotated[str, Meta(min_length=1, max_length=MAX_RUN_ID)] | None = None

    def __repr__(self) -> str:
        """Nothing of it."""
        return "<subject>"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return []


class Resolve(_Op, frozen=True, tag="resolve"):
    """Ask for the values of 1 to 64 names.

    `ttl` asks for a shorter life, in seconds; `deliver` says how the values will reach the work; `subject` on whose
    behalf this is asked, if not the sender's own. Where the values go different ways, `ways` says for each name how, in
    place of `deliver`.
    """

    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_NAMES)]
    purpose: Purpose = ""
    ttl: Ttl | None = None
    deliver: Delivery = "value"
    subject: Subject | None = None
    ways: Annotated[tuple[OwnDelivery, ...], Meta(max_length=MAX_NAMES)] = ()


class Put(_Op, frozen=True, tag="put"):
    """Store a value under a name: create it, or replace exactly the version `replaces`."""

    name: Name
    value: Value
    purpose: Purpose = ""
    replaces: Replaced | None = None

    def __repr__(self) -> str:
        """The name and no more."""
        return f"Put(name={self.name!r})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`, whose own reading would show every field."""
        return [("name", self.name)]


class Generate(_Op, frozen=True, tag="generate"):
    """Have the broker make a value after a named recipe and store it; `reveal` asks for the value as well."""

    name: Name
    recipe: Annotated[str, Meta(min_length=1, max_length=MAX_RECIPE)]
    purpose: Purpose = ""
    replaces: Replaced | None = None
    reveal: bool = False


class Renew(_Op, frozen=True, tag="renew"):
    """Prolong a lease that this run holds."""

    lease: LeaseToken


class Release(_Op, frozen=True, tag="release"):
    """Give back a lease that this run holds."""

    lease: LeaseToken


class ListNames(_Op, frozen=True, tag="list"):
    """Ask which names this run may resolve."""


class Call(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One request that a proxy made for a run with a secret: where to, and what came of it; never what it held.

    `path` is the template of the route that covers it, `status` the upstream's answer (None if there was none), `fault`
    a slug if the proxy ended the call. Sizes are bodies in bytes, `elapsed` is in milliseconds.
    """

    at: Time
    route: Annotated[str, Meta(min_length=1, max_length=64)]
    name: Name
    host: Annotated[str, Meta(min_length=1, max_length=255)]
    method: Annotated[str, Meta(min_length=1, max_length=16)]
    path: Annotated[str, Meta(min_length=1, max_length=512)]
    status: Annotated[int, Meta(ge=100, le=999)] | None = None
    fault: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    sent: Time = 0
    received: Time = 0
    elapsed: Time = 0


class Report(_Op, frozen=True, tag="report"):
    """Have 1 to 64 calls recorded that a proxy made on behalf of one run."""

    subject: Subject
    calls: Annotated[tuple[Call, ...], Meta(min_length=1, max_length=MAX_CALLS)]


Operation = Resolve | Put | Generate | Renew | Release | ListNames | Report


class Request(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a run asks, sealed to the broker's intake key."""

    request_id: RequestId
    issued_at: Time
    deadline: Time
    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN)]
    body: Operation

    def __repr__(self) -> str:
        """Which request it is; neither its token nor its purpose, which may quote a value."""
        return f"Request(request_id={self.request_id.hex()!r}, body={type(self.body).__name__})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return [("request_id", self.request_id.hex()), ("body", type(self.body).__name__)]


class Result(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The outcome for one name. `value` is there if a `resolve` was `granted`, or a `generate` that asked for it.

    `version` of a write is the one that was stored, and of a write refused with `conflict` the one that is there, if
    this run may replace it. `retry_after` is in milliseconds, `expires_at` in milliseconds since the epoch. `approval`
    names the approval that is waited for, or that was refused. `source` is `stale` for a cached value past its time
    that is served because its vault fails and its entry allows that; `age_s` is how many seconds ago a value that was
    not fetched now was fetched.
    """

    name: Name
    outcome: Literal["granted", "refused"]
    code: Code | None = None
    value: Value | None = None
    expires_at: Time | None = None
    lease: LeaseToken | None = None
    source: Source | None = None
    version: Version | None = None
    retry_after: Time | None = None
    approval: ApprovalId | None = None
    age_s: Time | None = None

    def __repr__(self) -> str:
        """Everything but the value."""
        return f"Result(name={self.name!r}, outcome={self.outcome!r}, code={self.code!r})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return [("name", self.name), ("outcome", self.outcome), ("code", self.code)]


class Reply(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The answer to one request, sealed to the run's key.

    `status` is `ok` when everything was granted, `partial` when some names were, `refused` when nothing was;
    `code` and `retry_after` are set when the whole request was refused for one reason. `names` answers `list`, and
    `ways` says for each of them how the policy lets its value reach the work.
    """

    request_id: RequestId
    status: Literal["ok", "partial", "refused"]
    code: Code | None = None
    retry_after: Time | None = None
    results: Annotated[tuple[Result, ...], Meta(max_length=MAX_NAMES)] = ()
    names: Annotated[tuple[Name, ...], Meta(max_length=MAX_LISTED)] = ()
    ways: Annotated[tuple[Ways, ...], Meta(max_length=MAX_LISTED)] = ()


class Notice(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Something that happened to what a run holds or waits for; sealed to the run's key like a reply.

    `approval_settled` says that asking again is worth it now, not what was decided.
    """

    event: Literal["lease_revoked", "secret_rotated", "run_revoked", "approval_settled"]
    at: Time
    name: Name | None = None
    lease_id: LeaseId | None = None
    approval: ApprovalId | None = None


REPLY = Codec(Reply, "reply")
NOTICE = Codec(Notice, "notice")
_REQUEST = Codec(Request, "request")


def lease_id(token: bytes) -> bytes:
    """The id of a lease, 16 bytes, from its token."""
    return token[:16]


def encode_request(request: Request) -> bytes:
    """Encode a request.

    Raises:
        WireError: `too_large` if it exceeds the size cap.
    """
    return _REQUEST.encode(request)


def _check_name(name: str, place: str) -> None:
    """Say where a name is not canonical, not what it says: what was sent by mistake may be a value."""
    if not is_secret_name(name):
        raise WireError(f"request: {place} is not a canonical secret name", reason="bad_name")


def _check_ways(body: Resolve) -> None:
    """Ways are for what `deliver` cannot say, so that each request has one form; a run names them for itself."""
    if len(body.ways) != len(body.names):
        raise WireError("request: ways has not one entry for each name", reason="malformed")
    if len(set(body.ways)) == 1 or body.deliver != "value":
        raise WireError("request: one way for all names belongs into deliver", reason="malformed")
    if body.subject is not None:
        raise WireError("request: what is asked on behalf of a run goes one way", reason="malformed")


def decode_request(raw: bytes) -> Request:
    """Decode a request and check what types alone do not say.

    Raises:
        WireError: if the encoding is not canonical, a name is not canonical or asked for twice, ways stand where
            `deliver` says the same, or the deadline is not after the time of issue.
    """
    request = _REQUEST.decode(raw)
    body = request.body
    if isinstance(body, Resolve):
        for name in body.names:
            if not is_secret_name(name):
                _check_name(name, f"names[{body.names.index(name)}]")
        if len(set(body.names)) != len(body.names):
            raise WireError("request: a name is asked for twice", reason="malformed")
        if body.ways:
            _check_ways(body)
    elif isinstance(body, Put | Generate):
        _check_name(body.name, "name")
    elif isinstance(body, Report):
        for place, call in enumerate(body.calls):
            _check_name(call.name, f"calls[{place}].name")
    if request.deadline <= request.issued_at:
        raise WireError("request: the deadline is not after issued_at", reason="malformed")
    return request
