"""Audit lines, checkpoints and their published schema."""

import json
from importlib.resources import files

import jsonschema
import msgspec
import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.audit import (
    GENESIS,
    AuditRecord,
    decode_line,
    encode_checkpoint,
    encode_line,
    event_schema,
    format_time,
    verify_checkpoint,
)
from agent_sdk.wire.errors import Code, WireError

CHAIN = "0123456789abcdef"
TIME = "2026-09-21T12:00:00.000Z"
PUBLIC, SECRET = sodium.crypto_sign_seed_keypair(bytes(32))
RECORD = AuditRecord(
    v=1,
    event="access",
    timestamp=TIME,
    agent_id="claude",
    run_id="run-1",
    secret_name="openai.api_key",
    outcome="refused",
    code=Code.DENIED,
    reason="no_grant",
    action="resolve",
    purpose="naïve \x1b[31m \u202e",
    latency_us=0,
)


def test_a_line_reads_back_as_it_was_written() -> None:
    """What is encoded decodes to the same record at its place."""
    event = decode_line(encode_line(RECORD, "worker-1", CHAIN, 7, GENESIS))
    assert (event.worker, event.chain, event.sequence, event.prev) == ("worker-1", CHAIN, 7, GENESIS)
    assert event.event_id == f"{CHAIN}-000000000007"
    assert event.purpose == RECORD.purpose
    assert event.code is Code.DENIED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b'"v":1,', b'"v":1,"value":"x",'), "unknown field"),
        ((b'"v":1,', b'"v":2,'), "[Ii]nvalid enum value"),
        ((b'{"v"', b'{ "v"'), "not in canonical form"),
        ((b'"run_id":"run-1"', b'"run_id":"run-1","run_id":"run-1"'), "not in canonical form"),
        ((b'"latency_us":0', b'"latency_us":-1'), ">= 0"),
        ((b'"outcome":"refused"', b'"outcome":"maybe"'), "enum value"),
        ((b"12:00:00.000Z", b"12:00:00.000+"), "matching regex"),
        ((b"12:00:00.000Z", b"12:00:00.000Z\\n"), "length <= 24"),
        ((b"-000000000007", b"-000000000008"), "event_id"),
        ((b'"sequence":7', b'"sequence":7.0'), "Expected `int`"),
    ],
)
def test_only_the_canonical_line_is_read(change: tuple[bytes, bytes], message: str) -> None:
    """Another spelling, an unknown field or an impossible value is refused with the reason."""
    line = encode_line(RECORD, "worker-1", CHAIN, 7, GENESIS)
    assert change[0] in line
    with pytest.raises(WireError, match=message):
        decode_line(line.replace(*change))


def test_an_overlong_line_is_refused_before_it_is_parsed() -> None:
    """The size bound comes first."""
    with pytest.raises(WireError, match="8193 bytes; at most 8192"):
        decode_line(b"[" * 8193)


def test_there_is_no_field_that_could_hold_a_value() -> None:
    """The allow-list of fields is pinned: who adds one must think of what may go into it."""
    assert set(AuditRecord.__struct_fields__) == {
        "v", "event", "timestamp", "agent_id", "run_id", "secret_name", "outcome", "source", "age_s", "code", "reason",
        "action", "deliver", "actor", "purpose", "rule", "policy", "provider", "version", "expires_at",
        "lease_id", "lease_ends", "uses", "approval_id", "approver", "subject", "request_id", "entry_id", "run_key",
        "token_id", "issuer", "task", "latency_us", "count",
        "route", "host", "method", "path", "status", "sent_bytes", "received_bytes", "elapsed_ms", "signature",
    }  # fmt: skip


def test_a_checkpoint_verifies_with_the_identity_that_signed_it() -> None:
    """The signature holds for this identity and no other."""
    event = decode_line(encode_checkpoint(SECRET, TIME, "worker-1", CHAIN, 3, GENESIS))
    other, _ = sodium.crypto_sign_seed_keypair(b"\x01" * 32)
    assert verify_checkpoint(PUBLIC, event)
    assert not verify_checkpoint(other, event)
    assert not verify_checkpoint(b"", event)


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp": "2026-09-21T12:00:00.001Z"},
        {"worker": "worker-2"},
        {"chain": "f" * 16},
        {"sequence": 4},
        {"prev": "1" * 64},
        {"reason": "added"},
        {"event": "access"},
        {"signature": None},
        {"signature": "A" * 128},
        {"signature": "zz"},
    ],
)
def test_a_checkpoint_signs_all_of_its_line(change: dict[str, object]) -> None:
    """No field of a checkpoint can be changed, added or dropped."""
    event = decode_line(encode_checkpoint(SECRET, TIME, "worker-1", CHAIN, 3, GENESIS))
    assert not verify_checkpoint(PUBLIC, msgspec.structs.replace(event, **change))


@given(st.integers(0, 253_402_300_799_999))
def test_times_have_one_form(milliseconds: int) -> None:
    """Every time of four-digit years is written in the form that the schema demands, and in order."""
    text = format_time(milliseconds)
    record = AuditRecord(v=1, event="access", timestamp=text)
    assert decode_line(encode_line(record, "w", CHAIN, 0, GENESIS)).timestamp == text
    assert format_time(min(milliseconds + 1, 253_402_300_799_999)) >= text


@pytest.mark.parametrize("milliseconds", [-1, 253_402_300_800_000])
def test_a_time_outside_the_form_is_refused(milliseconds: int) -> None:
    """A year that the form cannot write is an error, not another form."""
    with pytest.raises(ValueError, match="1970 and 9999"):
        format_time(milliseconds)


def test_the_published_schema_is_that_of_the_type() -> None:
    """The file in the package is what the type generates (`secret-broker audit schema` prints it)."""
    published = files("agent_sdk.wire").joinpath("audit_event.schema.json").read_text()
    assert published == json.dumps(event_schema(), indent=2) + "\n"


def test_real_lines_are_valid_under_the_schema_and_others_not() -> None:
    """A consumer in another language can check lines with the schema alone."""
    validator = jsonschema.Draft202012Validator(event_schema())
    validator.check_schema(event_schema())
    line = json.loads(encode_line(RECORD, "worker-1", CHAIN, 7, GENESIS))
    validator.validate(line)
    validator.validate(json.loads(encode_checkpoint(SECRET, TIME, "worker-1", CHAIN, 3, GENESIS)))
    for wrong in ({**line, "value": "x"}, {**line, "sequence": -1}, {k: v for k, v in line.items() if k != "prev"}):
        assert not validator.is_valid(wrong)
