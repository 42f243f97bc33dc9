"""What the job process reports goes into the audit once, and only what it wrote."""

import pytest
from desk_ports import Notebook
from desk_workbench import TurnedClock

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.messages import MAX_TIME
from broker_worker.app.compose import ReportReader
from broker_worker.core.errors import AuditError
from broker_worker.jobs.reports import encode_report, make_report, report_key

KEY = report_key(bytes(32))


class Reading:
    """A reader, its clock, and the audit that it has reports recorded in."""

    def __init__(self) -> None:
        self.clock, self.sink = TurnedClock(), Notebook()
        self.reader = ReportReader(KEY, self.clock)  # type: ignore[arg-type]  # any clock does

    def read(self, raw: bytes) -> list[AuditRecord]:
        """What the audit has after that."""
        self.reader(raw, lambda record: self.sink.append([record]))
        return self.sink.records


@pytest.fixture
def reading() -> Reading:
    """Nothing was read."""
    return Reading()


def test_a_report_is_recorded_once(reading: Reading) -> None:
    """Whoever owns the queue may repeat it as often as he likes."""
    raw = encode_report(make_report("job_refused", reading.clock.time, reason="forged", count=2), KEY)
    for _ in range(2):
        (record,) = reading.read(raw)
        assert (record.event, record.reason, record.count) == ("job_refused", "forged", 2)


def test_a_report_that_the_audit_did_not_take_counts_when_it_comes_again(reading: Reading) -> None:
    """A full disk loses none: the queue still has it, and it is claimed again."""
    raw = encode_report(make_report("notified", reading.clock.time), KEY)
    reading.sink.is_full = True
    with pytest.raises(AuditError):
        reading.read(raw)
    reading.sink.is_full = False
    assert [record.event for record in reading.read(raw)] == ["notified"]


def test_what_is_not_ours_or_a_day_off_says_nothing(reading: Reading) -> None:
    """A forged report, bytes of anybody, one that was kept for later, and one of a time that cannot be recorded."""
    now = reading.clock.time
    assert reading.read(b"junk") == []
    assert reading.read(encode_report(make_report("notified", now), report_key(bytes([1]) * 32))) == []
    for at in (now - 86_400_001, now + 86_400_001, MAX_TIME):
        assert reading.read(encode_report(make_report("notified", at), KEY)) == []
