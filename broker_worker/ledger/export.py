"""Audit events in other systems' forms. Each version is named: CloudEvents 1.0.2, OCSF 1.3.0 class 6003.

Every form is ASCII or escapes control characters, because an agent chose some of the texts.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from agent_sdk.wire.audit import SCHEMA_VERSION, AuditEvent, parse_time

OCSF_VERSION: Final = "1.3.0"
CLOUDEVENTS_VERSION: Final = "1.0"
"""The `specversion` of CloudEvents 1.0.2."""
CSV_COLUMNS: Final = tuple(field for field in AuditEvent.__struct_fields__ if field not in ("v", "signature"))
_CATEGORY, _CLASS = 6, 6003
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_ACTIVITIES: Mapping[str | None, int] = {
    "resolve": _READ,
    "list": _READ,
    "put": _UPDATE,
    "generate": _CREATE,
    "renew": _UPDATE,
    "release": _DELETE,
}
_MAPPED = frozenset(
    {
        *("v", "timestamp", "agent_id", "run_id", "secret_name", "outcome", "code", "reason", "action", "purpose"),
        *("version", "request_id", "run_key", "issuer", "latency_us", "count", "signature"),
        *("event_id", "worker", "sequence"),
    }
)
"""What has a place in an OCSF event, or says nothing outside its chain; everything else stands in `unmapped`."""
_INFORMATIONAL, _LOW, _MEDIUM = 1, 2, 3
_SUSPICIOUS = frozenset({"unauthenticated", "queue_distrusted", "decision_refused", "job_refused"})
_FORMULA = re.compile(r"\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def to_jsonl(event: AuditEvent) -> str:
    """The event itself, as JSON in ASCII."""
    return json.dumps(msgspec.to_builtins(event), separators=(",", ":"))


def to_csv(event: AuditEvent) -> str:
    """One row (RFC 4180 without its line end); no cell begins what a spreadsheet would compute."""
    return _csv_row([_cell(getattr(event, column)) for column in CSV_COLUMNS])


def csv_header() -> str:
    """The row of column names."""
    return _csv_row(CSV_COLUMNS)


def to_cloudevent(event: AuditEvent) -> str:
    """A CloudEvents 1.0.2 event in its JSON format, with the extension `sequence`."""
    document = {
        "specversion": CLOUDEVENTS_VERSION,
        "id": event.event_id,
        "source": f"urn:secret-broker:worker:{event.worker}",
        "type": f"secret-broker.audit.{event.event}",
        "time": event.timestamp,
        "dataschema": f"urn:secret-broker:schema:audit-event:{SCHEMA_VERSION}",
        "datacontenttype": "application/json",
        "sequence": f"{event.sequence:016d}",
        "data": msgspec.to_builtins(event),
    }
    subject = event.subject or event.secret_name or event.run_id
    if subject:
        document["subject"] = subject
    return json.dumps(document, separators=(",", ":"))


def to_ocsf(event: AuditEvent) -> str:
    """An OCSF 1.3.0 event of the class API Activity (6003); what has no place there stands in `unmapped`."""
    activity = _ACTIVITIES.get(event.action, _OTHER)
    code = None if event.code is None else event.code.value
    document: dict[str, Any] = {
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "activity_id": activity,
        "type_uid": _CLASS * 100 + activity,
        "time": parse_time(event.timestamp),
        "severity_id": _severity(event),
        "status_id": {"granted": 1, "refused": 2}.get(event.outcome or "", 0),
        "status_code": code,
        "status_detail": event.reason,
        "message": event.purpose,
        "count": event.count,
        "duration": None if event.latency_us is None else event.latency_us // 1000,
        "metadata": {
            "version": OCSF_VERSION,
            "uid": event.event_id,
            "sequence": event.sequence,
            "log_name": "secret-broker audit",
            "product": {"name": "Secret Broker", "vendor_name": "Secret Broker"},
        },
        "actor": _actor(event),
        "src_endpoint": {"svc_name": event.agent_id or event.worker, "uid": event.run_key or event.worker},
        "api": {
            "operation": event.action or event.event,
            "service": {"name": "secret-broker", "uid": event.worker},
            "request": {"uid": event.request_id} if event.request_id else None,
            "response": {"error": code, "error_message": event.reason} if code else None,
        },
        "resources": [{"name": event.secret_name, "type": "secret", "version": event.version}]
        if event.secret_name
        else None,
        "unmapped": _unmapped(event),
    }
    return json.dumps(_without_none(document), separators=(",", ":"))


Format = Literal["jsonl", "csv", "cloudevents", "ocsf"]
FORMATS: Mapping[Format, Callable[[AuditEvent], str]] = {
    "jsonl": to_jsonl,
    "csv": to_csv,
    "cloudevents": to_cloudevent,
    "ocsf": to_ocsf,
}


def _severity(event: AuditEvent) -> int:
    if event.event in _SUSPICIOUS:
        return _MEDIUM
    return _LOW if event.outcome == "refused" else _INFORMATIONAL


def _actor(event: AuditEvent) -> dict[str, Any]:
    if event.agent_id is None:
        return {"app_name": event.worker}
    session = {"uid": event.run_id, "issuer": event.issuer} if event.run_id else None
    return {"app_name": event.agent_id, "user": {"uid": event.agent_id, "type_id": 3}, "session": session}


def _unmapped(event: AuditEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in AuditEvent.__struct_fields__ if name not in _MAPPED}


def _without_none(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_none(value) for key, value in document.items() if value is not None}
    return [_without_none(each) for each in document] if isinstance(document, list) else document


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    # Excel, LibreOffice and Sheets compute what begins like this; the quote makes it text (OWASP, "CSV Injection")
    guarded = "'" + text if _FORMULA.match(text) else text
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", guarded)


def _csv_row(cells: Any) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(cells)
    return row.getvalue()
