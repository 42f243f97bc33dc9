"""What jobs there are, what each is about, and which process does it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from agent_sdk.wire.codec import Codec, explain
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_NAMES, Name, Purpose, Time

NOTIFICATIONS: Final = "notifications"
"""The queue of the process that reaches people; it has no access to the vault."""
UPSTREAM: Final = "upstream"
"""The queue of the process that tells vaults to take credentials back."""
ROTATIONS: Final = "rotations"
"""The queue of the process that rotates secrets when their time has come."""
MAX_PAYLOAD: Final = 32 * 1024

Text = Annotated[str, Meta(max_length=256)]


class ApprovalNotice(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An approval that waits for people. Times are ms since the epoch.

    Args:
        approval_id: 16 hexadecimal digits.
        agent_id: who asks.
        run_id: in which run.
        names: for which secrets.
        purpose: what the agent says that it is for: text that nobody vouches for.
        task: what the token says that the run is for.
        approvers: groups and names of people who may decide.
        expires_at: until when.
        asked_today: how many approvals this agent asked for in the last 24 hours.
        link: where the dashboard shows it; empty if there is none.
    """

    approval_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    agent_id: Text
    run_id: Text
    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_NAMES)]
    purpose: Purpose = ""
    task: Text | None = None
    approvers: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    expires_at: Time
    asked_today: Annotated[int, Meta(ge=0)] = 0
    link: Annotated[str, Meta(max_length=512, pattern="^[!-~]*$")] = ""


class Delivery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One notice to one target of `broker.yaml`; a target that fails holds up no other."""

    target: Text
    notice: ApprovalNotice


class UpstreamRevocation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential that a vault made for us and shall take back.

    Args:
        scheme: of the reference that it came from; chooses the provider.
        upstream_lease: what the vault calls it.
    """

    scheme: Annotated[str, Meta(pattern="^[a-z][a-z0-9]{0,15}$")]
    upstream_lease: Annotated[str, Meta(min_length=1, max_length=1024)]


class DueRotation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A secret whose next version is due by its schedule."""

    name: Name


class JobKind:
    """A kind of job.

    Args:
        name: what `JobQueue.enqueue` calls it.
        queue: which process does it.
        payload: the type of what it is about.
        keep_seconds: for how long a job that nobody does stays on the queue; None for ever.
    """

    __slots__ = ("_codec", "_payload", "keep_seconds", "name", "queue")

    def __init__(self, name: str, queue: str, payload: type[Any], keep_seconds: int | None) -> None:
        self.name = name
        self.queue = queue
        self.keep_seconds = keep_seconds
        self._payload = payload
        self._codec: Codec[Any] = Codec(payload, f"payload of {name}", MAX_PAYLOAD)

    def encode(self, payload: Mapping[str, object]) -> bytes:
        """The canonical bytes of a payload.

        Raises:
            WireError: if it is not what this kind of job is about; its content is not repeated.
        """
        problem = None
        try:
            return self._codec.encode(msgspec.convert(dict(payload), self._payload))
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            problem = explain(error, "cannot be encoded")
        raise WireError(f"payload of {self.name}: {problem}", reason="bad_payload")

    def decode(self, raw: bytes) -> Any:
        """Read a payload.

        Raises:
            WireError: if it is not canonical.
        """
        return self._codec.decode(raw)


_DAY = 24 * 3600
NOTIFY_APPROVAL: Final = JobKind("notify_approval", NOTIFICATIONS, ApprovalNotice, _DAY)
DELIVER: Final = JobKind("deliver", NOTIFICATIONS, Delivery, _DAY)
REVOKE_UPSTREAM: Final = JobKind("revoke_upstream", UPSTREAM, UpstreamRevocation, None)
ROTATE: Final = JobKind("rotate", ROTATIONS, DueRotation, _DAY)
KINDS: Final[Mapping[str, JobKind]] = {kind.name: kind for kind in (NOTIFY_APPROVAL, DELIVER, REVOKE_UPSTREAM, ROTATE)}
