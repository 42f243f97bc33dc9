"""An audit event in a few words, and the tone in which a page shows it."""

from collections.abc import Mapping
from typing import Any, Literal

from agent_sdk.wire.audit import decode_line

Tone = Literal["good", "bad", "wait", "note", "plain"]
"""`good` was given, `bad` was refused or ended, `wait` waits for a person, `note` deserves a look."""

_EVENTS: Mapping[str, tuple[str, Tone]] = {
    "request_refused": ("request refused", "bad"),
    "unauthenticated": ("nobody's messages", "bad"),
    "worker_started": ("worker started", "plain"),
    "worker_stopped": ("worker stopped", "plain"),
    "config_loaded": ("configuration loaded", "plain"),
    "config_rejected": ("configuration rejected", "note"),
    "queue_distrusted": ("queue distrusted", "note"),
    "approval_requested": ("asked a person", "wait"),
    "decision_refused": ("decision does not count", "bad"),
    "revoked": ("revoked", "bad"),
    "reinstated": ("reinstated", "good"),
    "lease_ended": ("lease ended", "note"),
    "notified": ("notified", "plain"),
    "job_refused": ("job refused", "bad"),
    "write_started": ("began to store", "plain"),
    "write_unsettled": ("stored or not", "note"),
    "value_written": ("stored by the operator", "plain"),
    "rotation": ("rotation", "plain"),
}
_GIVEN: Mapping[str, str] = {
    "resolve": "released",
    "put": "stored",
    "generate": "generated",
    "renew": "renewed",
    "release": "given back",
    "list": "listed",
}
_REFUSED: Mapping[str, tuple[str, Tone]] = {
    "approval_pending": ("waits for approval", "wait"),
    "approval_denied": ("denied by a person", "bad"),
    "approval_expired": ("nobody decided", "bad"),
    "rate_limited": ("rate limited", "note"),
    "unavailable": ("vault unavailable", "note"),
    "revoked": ("refused: revoked", "bad"),
    "conflict": ("other version there", "note"),
}
_SETTLED: Mapping[str, tuple[str, Tone]] = {
    "approved": ("approved", "good"),
    "denied": ("denied", "bad"),
    "expired": ("nobody decided", "note"),
    "void": ("voided", "note"),
}


def headline(event: Mapping[str, Any]) -> str:
    """What happened, in two or three words.

    Args:
        event: a row of the ledger's `events`.
    """
    return _worded(event)[0]


def tone(event: Mapping[str, Any]) -> Tone:
    """How a page shows it.

    Args:
        event: a row of the ledger's `events`.
    """
    return _worded(event)[1]


def called(event: Mapping[str, Any]) -> str:
    """What a proxy asked of whom, and what came back; empty for what is no call.

    Args:
        event: a row of the ledger's `events`, with `call_line`.
    """
    line = event.get("call_line")
    if not line:
        return ""
    call = decode_line(line.encode())
    status = "no answer" if call.status is None else str(call.status)
    return f"{call.method} {call.host}{call.path}: {status}, {call.elapsed_ms or 0} ms"


def _worded(event: Mapping[str, Any]) -> tuple[str, Tone]:
    kind, outcome = event["event"], event["outcome"]
    if kind == "access":
        if outcome == "granted":
            return _GIVEN.get(event["action"] or "", "granted"), "good"
        return _REFUSED.get(event["code"] or "", ("refused", "bad"))
    if kind == "call":
        return ("used by a proxy", "good") if outcome == "granted" else ("call stopped", "bad")
    if kind == "approval_decided":
        return ("approved by a person", "good") if outcome == "granted" else ("denied by a person", "bad")
    if kind == "approval_settled":
        return _SETTLED.get(event["reason"] or "", ("settled", "plain"))
    return _EVENTS.get(kind, (kind.replace("_", " "), "plain"))
