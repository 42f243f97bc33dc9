"""What each audit event changes in the ledger's tables: pure functions from a row and an event to the next row.

Chains of several workers reach the ledger in any order between them, so every fold gives the same row whichever comes
first: times by the smallest and the largest, counts by sums, texts by the least. Each event is folded exactly once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import structs
from sqlalchemy import String, Table

from agent_sdk.ledger import AuditEvent, VerifiedLine
from agent_sdk.wire.audit import parse_time
from agent_sdk.wire.errors import Code
from broker_worker.ledger.schema import APPROVALS, EVENTS, LEASES, REVOCATIONS, RUNS, USAGE

Row = dict[str, Any]
Key = tuple[Any, ...]

HOUR_MS: Final = 3600 * 1000
_MAX_INT: Final = 2**31 - 1
_MAX_BIGINT: Final = 2**63 - 1
_SERVED = frozenset({"resolve", "put", "generate"})
_STATES: Mapping[str | None, str] = {"approved": "approved", "denied": "denied", "expired": "expired", "void": "void"}
_SOURCES: Final = (None, "provider", "cache", "stale")
"""Where values come from, the freshest first."""
_LENGTHS: Mapping[str, int | None] = {
    column.name: column.type.length
    for table in (EVENTS, RUNS)
    for column in table.columns
    if isinstance(column.type, String) and column.name in AuditEvent.__struct_fields__
}
_EVENT_FIELDS: Final = tuple(
    column.name for column in EVENTS.columns if column.name in AuditEvent.__struct_fields__ and column.name != "count"
)


@dataclass(frozen=True, slots=True)
class Fold:
    """How events become rows of one table.

    Args:
        table: the table.
        key: the primary key of the row that an event belongs to; None if it belongs to none.
        fold: the next row, from the row so far (None if there is none) and the line.
    """

    table: Table
    key: Callable[[VerifiedLine], Key | None]
    fold: Callable[[Row | None, VerifiedLine, Key], Row]


def fitted(line: VerifiedLine) -> VerifiedLine:
    """The line with texts as the database can keep them: no longer than their columns, and without NUL.

    PostgreSQL refuses both. What was cut stands whole in `events.line`.
    """
    event = line.event
    changed = {
        name: _fitting(text, limit)
        for name, limit in _LENGTHS.items()
        if (text := getattr(event, name)) is not None and (len(text) > (limit or len(text)) or "\x00" in text)
    }
    return replace(line, event=structs.replace(event, **changed)) if changed else line


def event_row(line: VerifiedLine) -> Row:
    """The row of `events` for a fitted line."""
    event = line.event
    row = {name: getattr(event, name) for name in _EVENT_FIELDS}
    row["at"] = line.at
    row["count"] = None if event.count is None else min(event.count, _MAX_BIGINT)
    row["latency_us"] = None if event.latency_us is None else min(event.latency_us, _MAX_BIGINT)
    row["line"] = line.raw.decode()
    return row


def _fitting(text: str, limit: int | None) -> str:
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.replace("\x00", "\ufffd")


def is_in_force(revocation: Row) -> bool:
    """Whether what a row of `revocations` says is refused."""
    revoked, reinstated = revocation["revoked_at"], revocation["reinstated_at"]
    return revoked is not None and (reinstated is None or reinstated <= revoked)


def run_of_subject(subject: str) -> Key | None:
    """The key in `runs` of a revocation's subject, if it is a run."""
    kind, _, rest = subject.partition(":")
    agent, slash, run = rest.partition("/")
    return (agent, run) if kind == "run" and slash else None


def _is_use(event: AuditEvent) -> bool:
    """Whether an event is one secret, given or refused."""
    return event.event == "access" and event.secret_name is not None and event.action in _SERVED


def _waits(event: AuditEvent) -> bool:
    """Whether an answer said that people decide first: a client asks again and again until they have."""
    return event.code == Code.APPROVAL_PENDING


def _run_key(line: VerifiedLine) -> Key | None:
    event = line.event
    if event.event in ("revoked", "reinstated"):
        return run_of_subject(event.subject or "")
    if event.event not in ("access", "request_refused", "approval_requested"):
        return None
    return None if event.agent_id is None or event.run_id is None else (event.agent_id, event.run_id)


def _fold_run(row: Row | None, line: VerifiedLine, key: Key) -> Row:
    event, at = line.event, line.at
    if row is None:
        names = ("task", "issuer", "revoked_at")
        row = dict(zip(("agent_id", "run_id"), key, strict=True)) | dict.fromkeys(names)
        row |= {"first_at": at, "last_at": at, "granted": 0, "refused": 0}
    row["first_at"], row["last_at"] = min(row["first_at"], at), max(row["last_at"], at)
    row["task"], row["issuer"] = _least(row["task"], event.task), _least(row["issuer"], event.issuer)
    row["granted"] += _is_use(event) and event.outcome == "granted"
    is_refused = event.event in ("access", "request_refused") and event.outcome == "refused"
    row["refused"] += is_refused and not _waits(event)
    return row


def _lease_key(line: VerifiedLine) -> Key | None:
    event = line.event
    is_held = event.event == "lease_ended" or (event.event == "access" and event.outcome == "granted")
    whole = None not in (event.lease_id, event.agent_id, event.run_id, event.secret_name)
    return (event.lease_id,) if is_held and whole else None


def _fold_lease(row: Row | None, line: VerifiedLine, key: Key) -> Row:
    event, at = line.event, line.at
    expires_at = _time(event.expires_at)
    if row is None:
        names = ("version", "ends_at", "ended_at", "end_reason", "approval_id", "source", "age_s")
        row = {"lease_id": key[0], "uses": 0, "renewals": 0} | dict.fromkeys(names)
        row |= dict.fromkeys(("keeper_agent_id", "keeper_run_id"))
        row |= {"agent_id": event.agent_id, "run_id": event.run_id, "secret_name": event.secret_name}
        row |= {"issued_at": at, "expires_at": expires_at or at}
    row["issued_at"] = min(row["issued_at"], at)
    row["expires_at"] = max(row["expires_at"], expires_at or at)
    row["ends_at"] = _greatest(row["ends_at"], _time(event.lease_ends))
    row["version"] = _least(row["version"], event.version)
    row["approval_id"] = _least(row["approval_id"], event.approval_id)
    if event.actor is not None:
        agent, _, run = event.actor.partition("/")
        row["keeper_agent_id"] = _least(row["keeper_agent_id"], _fitting(agent, 64))
        row["keeper_run_id"] = _least(row["keeper_run_id"], _fitting(run, 128))
    if event.action in _SERVED:
        row["uses"] = min(max(row["uses"], event.uses or 1), _MAX_INT)
        row["source"] = max(row["source"], event.source, key=_SOURCES.index)
        row["age_s"] = _greatest(row["age_s"], event.age_s if event.age_s is None else min(event.age_s, _MAX_BIGINT))
    row["renewals"] += event.action == "renew"
    if event.event == "lease_ended" or event.action == "release":
        end = (at, event.reason or "released")
        before = (row["ended_at"], row["end_reason"])
        row["ended_at"], row["end_reason"] = end if before[0] is None else min(before, end)
    return row


def _approval_key(line: VerifiedLine) -> Key | None:
    event = line.event
    about = event.event in ("approval_requested", "approval_decided", "approval_settled")
    used = event.event == "access" and event.outcome == "granted" and event.action in _SERVED
    whole = None not in (event.approval_id, event.agent_id, event.run_id)
    return (event.approval_id,) if whole and (about or used) else None


def _fold_approval(row: Row | None, line: VerifiedLine, key: Key) -> Row:
    event, at = line.event, line.at
    if row is None:
        names = ("purpose", "approvers", "settled_at", "decided_by", "reason")
        row = {"approval_id": key[0], "state": "waiting", "used": 0, "secret_names": ""} | dict.fromkeys(names)
        row |= {"agent_id": event.agent_id, "run_id": event.run_id, "asked_at": at, "expires_at": at}
    row["asked_at"] = min(row["asked_at"], at)
    asked = event.secret_name or ""  # of a use only one of the names that were asked for together
    row["secret_names"] = max(row["secret_names"], asked, key=lambda text: (len(text), text))
    if event.event == "approval_requested":
        row["expires_at"] = max(row["expires_at"], _time(event.expires_at) or at)
        row["purpose"] = _least(row["purpose"], event.purpose)
        row["approvers"] = _least(row["approvers"], event.approver)
    elif event.event == "approval_decided":
        row["decided_by"] = _joined(row["decided_by"], event.approver)
        row["reason"] = _least(row["reason"], event.reason)
    elif event.event == "approval_settled":
        row["decided_by"] = _joined(row["decided_by"], event.approver)
        by_outcome = {"granted": "approved", "refused": "denied"}.get(event.outcome or "", "void")
        end = (at, _STATES.get(event.reason, by_outcome))
        before = (row["settled_at"], row["state"])
        row["settled_at"], row["state"] = end if before[0] is None else min(before, end)
    else:
        row["used"] += 1
    return row


def _usage_key(line: VerifiedLine) -> Key | None:
    event = line.event
    if not _is_use(event) or _waits(event) or event.agent_id is None:
        return None
    return (event.agent_id, event.secret_name, line.at - line.at % HOUR_MS)


def _fold_usage(row: Row | None, line: VerifiedLine, key: Key) -> Row:
    if row is None:
        row = dict(zip(("agent_id", "secret_name", "hour"), key, strict=True)) | {"granted": 0, "refused": 0}
    row["granted" if line.event.outcome == "granted" else "refused"] += 1
    return row


def _revocation_key(line: VerifiedLine) -> Key | None:
    event = line.event
    return (event.subject,) if event.event in ("revoked", "reinstated") and event.subject else None


def _fold_revocation(row: Row | None, line: VerifiedLine, key: Key) -> Row:
    event, at = line.event, line.at
    if row is None:
        names = ("revoked_at", "reinstated_at", "reason", "revoked_by")
        row = {"subject": key[0]} | dict.fromkeys(names)
    if event.event == "reinstated":
        row["reinstated_at"] = _greatest(row["reinstated_at"], at)
        return row
    order = (at, event.reason or "", _fitting(event.approver or "", 256))
    before = (row["revoked_at"], row["reason"], row["revoked_by"])
    newest = order if before[0] is None else max(before, order)
    row["revoked_at"], row["reason"], row["revoked_by"] = newest
    return row


def _time(timestamp: str | None) -> int | None:
    if timestamp is None:
        return None
    try:
        return parse_time(timestamp)
    except ValueError:
        return None


def _least(one: str | None, other: str | None) -> str | None:
    given = [text for text in (one, other) if text is not None]
    return min(given) if given else None


def _greatest(one: int | None, other: int | None) -> int | None:
    given = [number for number in (one, other) if number is not None]
    return max(given) if given else None


def _joined(names: str | None, more: str | None) -> str | None:
    together = {name for text in (names, more) if text for name in text.split(",")}
    return ",".join(sorted(together)) or None


FOLDS: Sequence[Fold] = (
    Fold(RUNS, _run_key, _fold_run),
    Fold(LEASES, _lease_key, _fold_lease),
    Fold(APPROVALS, _approval_key, _fold_approval),
    Fold(USAGE, _usage_key, _fold_usage),
    Fold(REVOCATIONS, _revocation_key, _fold_revocation),
)
"""All tables but those of the projection itself."""
