"""Audit events: one JSON line each, chained by hash, with a signed checkpoint a batch (docs/protocol.md, "Audit").

Each worker writes one chain. A line's `prev` is the SHA-256 of the line before it, without its line feed; the
first line of a chain has 64 zeros. A `checkpoint` line signs the chain up to and including its own `prev`.
There is no field that could hold a value, and unknown fields are refused.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.errors import Code, WireError

SCHEMA_VERSION = 1
GENESIS = "0" * 64
MAX_LINE = 8192
_TAG = b"secret-broker audit checkpoint v1\x00"

EventType = Literal[
    "access",
    "request_refused",
    "unauthenticated",
    "worker_started",
    "worker_stopped",
    "config_loaded",
    "config_rejected",
    "queue_distrusted",
    "checkpoint",
]
"""What a line records. `access`: one name of one verified request. `request_refused`: a verified request that was
refused as a whole. `unauthenticated`: `count` messages that nobody could be held to. `queue_distrusted`: the queue
forgot or contradicted what this worker knows."""


class AuditRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """What happened, before it has its place in a chain. Times are RFC 3339 in UTC with milliseconds."""

    v: Literal[1]
    event: EventType
    timestamp: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
    agent_id: str | None = None
    run_id: str | None = None
    secret_name: str | None = None
    outcome: Literal["granted", "refused"] | None = None
    source: Literal["cache", "provider"] | None = None
    code: Annotated[Code | None, Meta(description="what the agent was told")] = None
    reason: Annotated[str | None, Meta(description="why, in words that the agent is not told")] = None
    action: Literal["resolve", "put", "generate", "renew", "release", "list"] | None = None
    purpose: str | None = None
    rule: Annotated[str | None, Meta(description="file:line of the policy entry that decided")] = None
    policy: Annotated[str | None, Meta(description="digest of the policy in force")] = None
    provider: str | None = None
    version: str | None = None
    expires_at: str | None = None
    request_id: str | None = None
    entry_id: Annotated[str | None, Meta(description="the stream entry that carried the request")] = None
    run_key: Annotated[str | None, Meta(description="fingerprint of the run's key")] = None
    token_id: str | None = None
    issuer: str | None = None
    task: str | None = None
    latency_us: Annotated[int, Meta(ge=0, description="from read to record, microseconds")] | None = None
    count: Annotated[int, Meta(ge=1, description="how many messages this line stands for")] | None = None
    signature: Annotated[str | None, Meta(description="of a checkpoint: Ed25519, hexadecimal")] = None


class AuditEvent(AuditRecord, frozen=True, kw_only=True):
    """One line of the audit: a record at its place in a worker's chain."""

    event_id: Annotated[str, Meta(description="chain and sequence; the same after a republication")]
    worker: Annotated[str, Meta(description="the worker process, stable over restarts")]
    chain: Annotated[str, Meta(pattern="^[0-9a-f]{16}$", description="the chain that this worker writes")]
    sequence: Annotated[int, Meta(ge=0, description="position in the chain, without gaps")]
    prev: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the line before")]


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
    place = (
        f',"event_id":"{event_id(chain, sequence)}","worker":"{worker}","chain":"{chain}"'
        f',"sequence":{sequence},"prev":"{prev}"}}'
    )
    return _ENCODER.encode(record)[:-1] + place.encode()


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
    return event


def line_hash(line: bytes) -> str:
    """What the next line's `prev` must be: the SHA-256 of this line, hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def event_id(chain: str, sequence: int) -> str:
    """The identifier of a chain's event: unique, and the same when it is published again."""
    return f"{chain}-{sequence:012d}"


def _statement(chain: str, sequence: int, prev: str) -> bytes:
    return _TAG + f"{chain}\n{sequence}\n{prev}".encode()


def sign_checkpoint(identity_secret: bytes, chain: str, sequence: int, prev: str) -> str:
    """Sign the head of a chain.

    Args:
        identity_secret: the broker's Ed25519 secret in libsodium's 64-byte form.
        chain: the chain's id.
        sequence: the checkpoint's own sequence.
        prev: the hash of the line before the checkpoint, hexadecimal.

    Returns:
        The signature, hexadecimal.
    """
    return sodium.crypto_sign(_statement(chain, sequence, prev), identity_secret)[:64].hex()


def verify_checkpoint(identity_public_key: bytes, event: AuditEvent) -> bool:
    """Whether a checkpoint was signed by the broker with that identity."""
    try:
        signature = bytes.fromhex(event.signature or "")
        if signature.hex() != event.signature or len(identity_public_key) != sodium.crypto_sign_PUBLICKEYBYTES:
            return False  # another spelling of the same bytes, or a key that the binding would read past
        sodium.crypto_sign_open(signature + _statement(event.chain, event.sequence, event.prev), identity_public_key)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
