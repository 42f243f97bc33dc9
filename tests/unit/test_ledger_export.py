"""Exports: the same event in forms that other systems read, and that harm none of them."""

import csv
import io
import json
from typing import Any

import pytest
from audit_workbench import START
from hypothesis import given
from hypothesis import strategies as st
from ledger_workbench import lease, record

from agent_sdk.wire.audit import GENESIS, AuditEvent, decode_line, encode_line, format_time
from broker_worker.ledger.export import CSV_COLUMNS, FORMATS, csv_header, to_cloudevent, to_csv, to_jsonl, to_ocsf


def event(**fields: Any) -> AuditEvent:
    """One event at its place in a chain."""
    name = fields.pop("event", "access")
    made = record(str(name), **fields)
    return decode_line(encode_line(made, "worker-1", "0" * 16, 7, GENESIS))


def cells(text: str) -> dict[str, str]:
    """A CSV row by its column names."""
    (row,) = csv.reader(io.StringIO(text))
    return dict(zip(CSV_COLUMNS, row, strict=True))


def test_cloudevents_have_what_version_1_0_2_requires() -> None:
    """The four required attributes, a unique id and source, and the event itself as data."""
    document = json.loads(to_cloudevent(event(lease_id=lease(1))))
    assert document["specversion"] == "1.0"
    assert document["id"] == f"{'0' * 16}-000000000007"
    assert document["source"] == "urn:secret-broker:worker:worker-1"
    assert document["type"] == "secret-broker.audit.access"
    assert document["time"] == format_time(START)
    assert document["subject"] == "openai.api_key"
    assert document["data"]["lease_id"] == lease(1)
    assert all(name.isalnum() and name.islower() for name in document)  # attribute names: lower-case letters and digits


@pytest.mark.parametrize(("action", "activity"), [("resolve", 2), ("generate", 1), ("put", 3), ("release", 4)])
def test_ocsf_events_are_api_activity_of_1_3_0(action: str, activity: int) -> None:
    """Class 6003 with everything that it requires, and a type that follows from class and activity."""
    document = json.loads(to_ocsf(event(action=action, request_id="ab" * 16, run_key="k" * 26)))
    assert document["metadata"]["version"] == "1.3.0"
    assert (document["category_uid"], document["class_uid"]) == (6, 6003)
    assert (document["activity_id"], document["type_uid"]) == (activity, 600300 + activity)
    assert document["time"] == START
    assert document["metadata"]["product"]["vendor_name"]
    assert document["api"]["operation"] == action
    assert document["actor"]["user"]["uid"] == "claude"
    assert document["src_endpoint"]["uid"] == "k" * 26
    assert document["resources"][0]["name"] == "openai.api_key"
    assert (document["status_id"], document["severity_id"]) == (1, 1)


def test_ocsf_tells_refusals_and_events_of_no_agent_apart() -> None:
    """A refusal has its code; an event of the broker itself has the worker as its actor."""
    refused = json.loads(to_ocsf(event(outcome="refused", code="denied", reason="no_grant")))
    assert (refused["status_id"], refused["status_code"], refused["status_detail"]) == (2, "denied", "no_grant")
    assert refused["api"]["response"] == {"error": "denied", "error_message": "no_grant"}
    own = json.loads(to_ocsf(event(event="worker_started", agent_id=None, run_id=None)))
    assert own["actor"] == {"app_name": "worker-1"}
    assert own["activity_id"] == 99


def test_ocsf_keeps_what_a_proxy_called_and_for_whom() -> None:
    """Whatever has no place of its own stands in `unmapped`."""
    fields = {"route": "openai", "host": "api.openai.com", "method": "POST", "path": "/v1/*", "status": 200}
    fields |= {"sent_bytes": 1, "received_bytes": 2, "elapsed_ms": 3, "deliver": "proxy", "actor": "egress/run-1"}
    made = event(event="call", **fields)
    assert json.loads(to_ocsf(made))["unmapped"].items() >= {"event": "call", **fields}.items()


@pytest.mark.parametrize(
    "purpose",
    ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\t=1", "\r=1", "\n=1", "|cmd", "%1", "\uff1d1", "=HYPERLINK(1)"],
)
def test_no_cell_begins_a_formula(purpose: str) -> None:
    """What an agent wrote is text in every spreadsheet."""
    assert cells(to_csv(event(purpose=purpose)))["purpose"].startswith("'")


@given(purpose=st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_stays_in_its_cell_and_on_its_line(purpose: str) -> None:
    """Quotes, commas, line ends and control characters break neither the row nor a terminal."""
    text = to_csv(event(purpose=purpose or None))
    assert "\n" not in text
    assert "\r" not in text
    assert "\x1b" not in text
    assert cells(text)["run_id"] == "run-1"


def test_the_header_names_every_column() -> None:
    """The first row says what the others hold, and no signature is a column."""
    assert csv_header().split(",") == list(CSV_COLUMNS)
    assert "signature" not in CSV_COLUMNS


def test_every_form_is_one_line_without_control_characters() -> None:
    """An export can be shown in a terminal and cut into lines, whatever an agent wrote."""
    hostile = event(purpose="\x1b[2J\r\n\u2028 \x9b <script>")
    for write in FORMATS.values():
        assert all(character.isprintable() for character in write(hostile))


def test_jsonl_is_the_event_itself() -> None:
    """Nothing is lost or added."""
    one = event(purpose="grüße", lease_id=lease(1))
    assert json.loads(to_jsonl(one))["purpose"] == "grüße"
    assert set(json.loads(to_jsonl(one))) == {
        name for name in AuditEvent.__struct_fields__ if getattr(one, name) is not None
    }
