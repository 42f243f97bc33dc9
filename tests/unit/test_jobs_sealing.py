"""Jobs and reports: sealed, authenticated, canonical, and nobody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.errors import WireError
from broker_worker.jobs.functions import RetryPlan
from broker_worker.jobs.payloads import MAX_PAYLOAD, NOTIFICATIONS, NOTIFY_APPROVAL, REVOKE_UPSTREAM, UPSTREAM
from broker_worker.jobs.reports import decode_report, encode_report, make_report, report_key
from broker_worker.jobs.sealing import JobSealer, RefusingSerializer, SealedCall

KEY = bytes(range(32))
NOW = 1_790_000_000_000
SEALER = JobSealer(KEY)
NOTICE = {"approval_id": "00" * 8, "agent_id": "claude", "run_id": "r", "names": ["a.b"], "expires_at": NOW}


def seal(**changes: str) -> bytes:
    """A sealed job."""
    return SEALER.seal("revoke_upstream", b"payload", **{"queue": UPSTREAM, "job_id": "j", **changes}, now=NOW)


@given(st.binary(max_size=2048))
def test_what_is_sealed_opens_where_it_belongs(payload: bytes) -> None:
    """Name, time and payload come back."""
    sealed = SEALER.seal("x", payload, queue=UPSTREAM, job_id="j", now=NOW)
    assert SEALER.open(sealed, queue=UPSTREAM, job_id="j") == SealedCall(1, "x", NOW, payload)


@pytest.mark.parametrize(("queue", "job_id"), [(NOTIFICATIONS, "j"), (UPSTREAM, "k"), (UPSTREAM + "\x00j", "")])
def test_a_job_opens_nowhere_else(queue: str, job_id: str) -> None:
    """Neither on another queue nor under another id."""
    with pytest.raises(WireError) as caught:
        SEALER.open(seal(), queue=queue, job_id=job_id)
    assert caught.value.reason == "forged"


@given(st.data())
def test_no_bit_of_a_sealed_job_can_be_changed(data: st.DataObject) -> None:
    """Each is covered by the seal."""
    sealed = bytearray(seal())
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        SEALER.open(bytes(sealed), queue=UPSTREAM, job_id="j")


@given(st.binary(max_size=200))
def test_nothing_else_opens(raw: bytes) -> None:
    """Any bytes are refused with a WireError, and nothing else is raised."""
    with pytest.raises(WireError):
        SEALER.open(raw, queue=UPSTREAM, job_id="j")


def test_the_same_job_is_never_sealed_alike() -> None:
    """Each has a nonce of its own."""
    assert seal() != seal()


def test_rq_s_serializer_refuses_both_ways() -> None:
    """Whatever path of rq asks it, nothing is read and nothing written."""
    for function in (RefusingSerializer.dumps, RefusingSerializer.loads):
        with pytest.raises(WireError):
            function(b"\x80\x04N.")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {**NOTICE, "approval_id": "no"},
        {**NOTICE, "names": []},
        {**NOTICE, "value": "hunter2"},
        {**NOTICE, "purpose": "x" * 257},
        {**NOTICE, "asked_today": -1},
        {**NOTICE, "expires_at": object()},
    ],
    ids=lambda payload: ",".join(map(str, payload)),
)
def test_a_payload_of_another_form_is_refused_and_not_repeated(payload: dict[str, object]) -> None:
    """Unknown fields, wrong types and sizes; the message holds nothing of them."""
    with pytest.raises(WireError) as caught:
        NOTIFY_APPROVAL.encode(payload)
    assert "hunter2" not in str(caught.value)


def test_a_payload_comes_back_as_it_was() -> None:
    """Whatever order its fields were given in."""
    backwards = dict(reversed(NOTICE.items()))
    assert NOTIFY_APPROVAL.encode(NOTICE) == NOTIFY_APPROVAL.encode(backwards)
    assert NOTIFY_APPROVAL.decode(NOTIFY_APPROVAL.encode(NOTICE)).names == ("a.b",)


def test_an_upstream_lease_has_a_size() -> None:
    """Longer ones are refused before they are sealed."""
    with pytest.raises(WireError):
        REVOKE_UPSTREAM.encode({"scheme": "db", "upstream_lease": "x" * MAX_PAYLOAD})


def test_a_report_becomes_an_audit_record() -> None:
    """The fields of `notified` and `job_refused`, with the time at which it happened."""
    report = make_report("notified", NOW, approval_id="00" * 8, outcome="refused", reason="ops: http_500")
    record = decode_report(encode_report(report, report_key(KEY)), report_key(KEY)).record()
    assert (record.event, record.approval_id, record.outcome) == ("notified", "00" * 8, "refused")
    assert record.reason == "ops: http_500"
    assert record.timestamp.startswith("2026-")
    refused = make_report("job_refused", NOW, reason="forged", count=7).record()
    assert (refused.event, refused.reason, refused.count, refused.approval_id) == ("job_refused", "forged", 7, None)


@given(st.data())
def test_no_bit_of_a_report_can_be_changed(data: st.DataObject) -> None:
    """Whoever owns the queue writes nothing into the audit."""
    raw = bytearray(encode_report(make_report("job_refused", NOW, reason="forged", count=1), report_key(KEY)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        decode_report(bytes(raw), report_key(KEY))


def test_a_report_under_another_key_is_forged() -> None:
    """Such as one that another installation wrote."""
    raw = encode_report(make_report("job_refused", NOW, reason="forged", count=1), report_key(bytes(32)))
    with pytest.raises(WireError) as caught:
        decode_report(raw, report_key(KEY))
    assert caught.value.reason == "forged"


def test_pauses_double_up_to_the_longest() -> None:
    """And end with the last try, if there is one."""
    plan = RetryPlan(1, 60, 9)
    assert [plan.pause(n) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, None]
    assert RetryPlan(5, 3600, None).pause(10**6) == 3600
