"""Audit events: one JSON line each, chained by hash, with a signed checkpoint a batch (docs/protocol.md, "Audit").

Each worker writes one chain. A line's `prev` is the SHA-256 of the line before it, without its line feed; the
first line of a worker's first chain has 64 zeros, that of a later chain the last line of the one before. A
`checkpoint` line is signed with the broker's identity, and through its `prev` so is everything before it.
There is no field that could hold a value, and unknown fields are refused.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
import nacl.bindings as sodium
from msgspec import Meta, Struct, structs
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Delivery
from agent_sdk.wire.names import MAX_WORKER_NAME

SCHEMA_VERSION: Final = 1
GENESIS = "0" * 64
MAX_LINE = 8192
_TAG = b"secret-broker audit checkpoint v1\x00"
_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"
_WORKER = "^[a-z0-9]+([._-]+[a-z0-9]+)*$"
_HEX = "^[0-9a-f]+$"
_YEAR_10000 = 253_402_300_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

EventType = Literal[
    "access",
    "request_refused",
    "unauthenticated",
    "worker_started",
    "worker_stopped",
    "config_loaded",
    "config_rejected",
    "queue_distrusted",
    "approval_requested",
    "approval_decided",
    "approval_settled",
    "decision_refused",
    "revoked",
    "reinstated",
    "lease_ended",
    "notified",
    "job_refused",
    "write_started",
    "write_unsettled",
    "value_written",
    "rotation",
    "call",
    "checkpoint",
]
"""What a line records. `access`: one name of one verified request. `request_refused`: a verified request that was
refused as a whole. `unauthenticated`: `count` messages that nobody could be held to. `queue_distrusted`: the queue
forgot or contradicted what this worker knows. `approval_requested`, `approval_decided`, `approval_settled`: a person is
asked, one person decided, and what came of it (`outcome`, or `reason` when it expired or was voided).
`decision_refused`: a decision that does not count, and why. `revoked`, `reinstated`: from now on this worker refuses
`subject`, or no longer. `lease_ended`: before its time, and why. `notified`: a notification was delivered, or given up.
`job_refused`: a job that the broker did not write. `write_started`: a value is about to be stored; the `access` with
the same `request_id` says what came of it. `write_unsettled`: nothing said that, and the vault may hold it or not.
`value_written`: what came of a write that an operator or a rotation made. `rotation`: a step of one, in `reason`.
`call`: a request that a proxy made with a secret on behalf of a run, as the proxy reports it."""


class AuditRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """What happened, before it has its place in a chain. Times are RFC 3339 in UTC with milliseconds."""

    v: Literal[1]
    event: EventType
    timestamp: Annotated[str, Meta(pattern=_TIME, max_length=24)]
    agent_id: str | None = None
    run_id: str | None = None
    secret_name: str | None = None
    outcome: Literal["granted", "refused"] | None = None
    source: Annotated[
        Literal["cache", "provider", "stale"] | None,
        Meta(description="where the value was; `stale`: in the cache past its time, as its vault failed"),
    ] = None
    age_s: (
        Annotated[int, Meta(ge=0, description="how many seconds ago a value that was not fetched now was fetched")]
        | None
    ) = None
    code: Annotated[Code | None, Meta(description="what the agent was told")] = None
    reason: Annotated[str | None, Meta(description="why, in words that the agent is not told")] = None
    action: Literal["resolve", "put", "generate", "renew", "release", "list", "report"] | None = None
    deliver: Annotated[
        Delivery | None, Meta(description="how the value was to reach the work; two ways are separated by a comma")
    ] = None
    actor: Annotated[
        str | None,
        Meta(description="who asked on behalf of the run: `agent/run`, or the agent alone where people are asked"),
    ] = None
    purpose: str | None = None
    rule: Annotated[str | None, Meta(description="file:line of the policy entry that decided")] = None
    policy: Annotated[str | None, Meta(description="digest of the policy in force")] = None
    provider: str | None = None
    version: str | None = None
    expires_at: str | None = None
    lease_id: Annotated[str | None, Meta(description="the lease that the release opened or used, hexadecimal")] = None
    lease_ends: Annotated[str | None, Meta(description="until when the lease can be renewed at most")] = None
    uses: Annotated[int, Meta(ge=1, description="how often the value was handed out under the lease")] | None = None
    approval_id: Annotated[str | None, Meta(description="the approval asked for, decided or used")] = None
    approver: Annotated[str | None, Meta(description="who decided, or who may; names separated by commas")] = None
    subject: Annotated[str | None, Meta(description="what was revoked: `kind:id`")] = None
    request_id: str | None = None
    entry_id: Annotated[str | None, Meta(description="the stream entry that carried the request")] = None
    run_key: Annotated[str | None, Meta(description="fingerprint of the run's key")] = None
    token_id: str | None = None
    issuer: str | None = None
    task: str | None = None
    latency_us: Annotated[int, Meta(ge=0, description="from read to record, microseconds")] | None = None
    count: Annotated[int, Meta(ge=1, description="how many messages this line stands for")] | None = None
    route: Annotated[str | None, Meta(description="of a call: the proxy's route")] = None
    host: Annotated[str | None, Meta(description="of a call: the upstream's host")] = None
    method: Annotated[str | None, Meta(description="of a call: its HTTP method")] = None
    path: Annotated[str | None, Meta(description="of a call: the path's template, as the route says it")] = None
    status: Annotated[int | None, Meta(description="of a call: the upstream's HTTP status")] = None
    sent_bytes: Annotated[int, Meta(ge=0, description="of a call: the request's body")] | None = None
    received_bytes: Annotated[int, Meta(ge=0, description="of a call: the answer's body")] | None = None
    elapsed_ms: Annotated[int, Meta(ge=0, description="of a call: how long it took")] | None = None
    signature: Annotated[str | None, Meta(description="of a checkpoint: Ed25519, hexadecimal")] = None


class AuditEvent(AuditRecord, frozen=True, kw_only=True):
    """One line of the audit: a record at its place in a worker's chain."""

    event_id: Annotated[str, Meta(description="chain and sequence; the same after a republication")]
    worker: Annotated[
        str, Meta(pattern=_WORKER, max_length=MAX_WORKER_NAME, description="the worker, stable over restarts")
    ]
    chain: Annotated[str, Meta(pattern=_HEX, min_length=16, max_length=16, description="the chain that it writes")]
    sequence: Annotated[int, Meta(ge=0, le=2**53 - 1, description="position in the chain, without gaps")]
    prev: Annotated[str, Meta(pattern=_HEX, min_length=64, max_length=64, description="SHA-256 of the line before")]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(AuditEvent)


def encode_line(record: AuditRecord, worker: str, chain: str, sequence: int, prev: str) -> bytes:
    """Give a record its place in a chain and encode it as one JSON line, without the line feed.

    Args:
        record: what happened.
        worker: the worker's canonical name.
        chain: the chain's id, 16 hexadecimal digits.
        sequence: the position in the chain.
        prev: the hash of the line before, or `GENESIS`.

    Returns:
        The canonical encoding of the `AuditEvent`: the record's own fields first, then its place.
    """
    return _ENCODER.encode(record)[:-1] + _place(*_chain_fields(worker, chain), sequence, prev)


@lru_cache(maxsize=64)
def _chain_fields(worker: str, chain: str) -> tuple[bytes, bytes]:
    """What is the same in the place of every line of a chain: what stands before its sequence, twice."""
    return f',"event_id":"{chain}-'.encode(), f'","worker":"{worker}","chain":"{chain}","sequence":'.encode()


def _place(before_id: bytes, before_sequence: bytes, sequence: int, prev: str) -> bytes:
    """How a line ends: with its place."""
    return b'%b%012d%b%d,"prev":"%b"}' % (before_id, sequence, before_sequence, sequence, prev.encode())


def decode_line(line: bytes) -> AuditEvent:
    """Read one line back, strictly: what parses re-encodes to the same bytes.

    Raises:
        WireError: if the line is too long, no audit event, or not in canonical form.
    """
    if len(line) > MAX_LINE:
        raise WireError(
            f"audit line has {len(line)} bytes; at most {MAX_LINE} are allowed",
            code=Code.TOO_LARGE,
            reason="too_large",
        )
    try:
        event = _DECODER.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        detail = str(error) if isinstance(error, msgspec.ValidationError) else "not valid JSON"
        raise WireError(f"audit line: {detail}", reason="malformed") from None
    if _ENCODER.encode(event) != line:
        raise WireError("audit line: not in canonical form", reason="not_canonical")
    if event.event_id != event_id(event.chain, event.sequence):
        raise WireError("audit line: event_id is not that of its chain and sequence")
    return event


def line_hash(line: bytes) -> str:
    """What the next line's `prev` must be: the SHA-256 of this line, hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def event_id(chain: str, sequence: int) -> str:
    """The identifier of a chain's event: unique, and the same when it is published again."""
    return f"{chain}-{sequence:012d}"


def sign_checkpoint(identity_secret: bytes, unsigned: bytes) -> str:
    """Sign a checkpoint: all of its line but the signature, and with `prev` everything before it.

    Args:
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form.
        unsigned: the checkpoint's line without a signature.

    Returns:
        The signature, hexadecimal.
    """
    return sodium.crypto_sign(_TAG + unsigned, identity_secret)[:64].hex()


def encode_checkpoint(
    identity_secret: bytes, timestamp: str, worker: str, chain: str, sequence: int, prev: str
) -> bytes:
    """Encode a signed checkpoint at its place in a chain, without the line feed.

    Args:
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form.
        timestamp: when it is signed, as in `AuditRecord`.
        worker: the worker's canonical name.
        chain: the chain's id, 16 hexadecimal digits.
        sequence: the checkpoint's own position in the chain.
        prev: the hash of the line before.
    """
    record = _ENCODER.encode(AuditRecord(v=SCHEMA_VERSION, event="checkpoint", timestamp=timestamp))[:-1]
    place = _place(*_chain_fields(worker, chain), sequence, prev)
    signature = sign_checkpoint(identity_secret, record + place)
    return b'%b,"signature":"%b"%b' % (record, signature.encode(), place)  # the last of a record's own fields


def verify_checkpoint(identity_public_key: bytes, event: AuditEvent) -> bool:
    """Whether an event is a checkpoint that the broker with that identity signed."""
    try:
        signature = bytes.fromhex(event.signature or "")
        if event.event != "checkpoint" or signature.hex() != event.signature:
            return False  # another spelling of the same bytes
        if len(identity_public_key) != sodium.crypto_sign_PUBLICKEYBYTES:
            return False  # a key that the binding would read past
        unsigned = _ENCODER.encode(structs.replace(event, signature=None))
        sodium.crypto_sign_open(signature + _TAG + unsigned, identity_public_key)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


@lru_cache(maxsize=1024)
def format_time(milliseconds: int) -> str:
    """A time in ms since the epoch as audit events write it: RFC 3339, UTC, milliseconds.

    Raises:
        ValueError: if the year is not between 1970 and 9999.
    """
    if not 0 <= milliseconds < _YEAR_10000:
        raise ValueError("a time in the audit lies between the years 1970 and 9999")
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def parse_time(timestamp: str) -> int:
    """The time of an audit event in ms since the epoch: the inverse of `format_time`.

    Raises:
        ValueError: if it is not a time that there is.
    """
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None or moment.year < 1970:
        raise ValueError("a time in the audit is in UTC and lies between the years 1970 and 9999")
    return (moment - _EPOCH) // _MILLISECOND


def event_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one line, as published in `audit_event.schema.json`."""
    (schema,), components = msgspec.json.schema_components([AuditEvent], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:secret-broker:schema:audit-event:{SCHEMA_VERSION}",
        "title": "Secret Broker audit event",
        **schema,
        "$defs": components,
    }
