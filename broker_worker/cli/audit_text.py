"""Audit events and findings as text for a terminal: one line each, and nothing in them that a terminal would obey."""

import re

import msgspec

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.audit import AuditEvent
from agent_sdk.wire.audit_chain import Finding

_ENCODER = msgspec.json.Encoder()
_SOURCES = {"cache": "cache", "provider": "provider", "stale": "cache, past its time"}
_UNPRINTED = re.compile(r"[^\x20-\x7e]")


def event_line(event: AuditEvent) -> str:
    """One event for people: time, who, what, which name, outcome, why, by which rule, how fast."""
    who = f"{event.agent_id or '-'}/{event.run_id or '-'}" if event.agent_id or event.run_id else event.worker
    what = event.action or "-" if event.event == "access" else event.event
    parts = [event.timestamp.replace("T", " "), who, what]
    if event.secret_name:
        parts.append(event.secret_name)
    if event.outcome:
        parts.append(event.outcome if event.source is None else f"{event.outcome} from {_SOURCES[event.source]}")
        if event.source == "stale" and event.age_s is not None:
            parts.append(f"{event.age_s} s old")
    if event.code:
        parts.append(event.code.value)
    if event.event == "call":
        parts.append(_call(event))
    elif event.deliver not in (None, "value"):
        parts.append(f"as {event.deliver}")
    for label, text in (
        ("", event.subject),
        ("approval ", event.approval_id),
        ("asks " if event.event == "approval_requested" else "by ", event.approver),
        ("through ", event.actor),
        ("", event.reason),
        ("count ", event.count),
        ("rule ", event.rule),
        ("purpose ", event.purpose and _quoted(event.purpose)),
        ("task ", event.task and _quoted(event.task)),
    ):
        if text:
            parts.append(f"{label}{text}")
    if event.latency_us is not None:
        parts.append(f"{event.latency_us} µs")
    return "  ".join(printable(part) for part in parts)


def _call(event: AuditEvent) -> str:
    """A call of a proxy: what was asked of whom, and what came back."""
    status = "no answer" if event.status is None else str(event.status)
    sizes = f"{event.sent_bytes or 0} B sent, {event.received_bytes or 0} B received"
    return f"{event.method} {event.host}{event.path}  {status}  {sizes}, {event.elapsed_ms or 0} ms"


def event_json(event: AuditEvent) -> str:
    """One event as JSON with the same content as its line, in ASCII: an escape means the same and harms no terminal."""
    return _UNPRINTED.sub(_escaped, _ENCODER.encode(event).decode())


def finding_line(finding: Finding) -> str:
    """One finding for people: how bad, where, what."""
    place = f"{finding.file}:{finding.line}" if finding.line else finding.file
    sequence = "" if finding.sequence is None else f" sequence {finding.sequence}:"
    level = "warning" if finding.is_warning else "FAIL"
    return printable(f"{level}  {finding.fault.value}  {place}:{sequence} {finding.detail}")


def _quoted(text: str) -> str:
    """The text in quotes that it cannot leave: an agent chose it."""
    return _ENCODER.encode(text).decode()


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2))
