"""What stands on `sb:control`: a kind and the bytes of a decision, of a signed revocation, or of a signed write."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent_sdk.wire.codec import Codec
from broker_worker.core.approvals import MAX_BYTES, Decision, encode_decision


class ControlMessage(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry. Nothing in it counts without the signature that its body holds."""

    kind: Literal["decision", "revocation", "write"]
    body: Annotated[bytes, Meta(max_length=MAX_BYTES)]


_CONTROL = Codec(ControlMessage, "control message", MAX_BYTES + 64)


def decision_message(decision: Decision) -> bytes:
    """The entry that carries a decision."""
    return _CONTROL.encode(ControlMessage("decision", encode_decision(decision)))


def revocation_message(signed: bytes) -> bytes:
    """The entry that carries a signed revocation."""
    return _CONTROL.encode(ControlMessage("revocation", signed))


def write_message(signed: bytes) -> bytes:
    """The entry that carries a signed announcement of a write."""
    return _CONTROL.encode(ControlMessage("write", signed))


def decode_control(raw: bytes) -> ControlMessage:
    """Read an entry.

    Raises:
        WireError: if it is not canonical.
    """
    return _CONTROL.decode(raw)
