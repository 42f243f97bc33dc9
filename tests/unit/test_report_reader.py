"""What the job process reports goes into the audit once, and only what it wrote."""

from desk_workbench import TurnedClock

from broker_worker.app.compose import ReportReader
from broker_worker.jobs.reports import encode_report, make_report, report_key

KEY = report_key(bytes(32))


def reader(clock: TurnedClock) -> ReportReader:
    """A reader by that clock."""
    return ReportReader(KEY, clock)  # type: ignore[arg-type]  # any clock does


def test_a_report_is_recorded_once() -> None:
    """Whoever owns the queue may repeat it as often as he likes."""
    clock = TurnedClock()
    read, raw = reader(clock), encode_report(make_report("job_refused", clock.time, reason="forged", count=2), KEY)
    record = read(raw)
    assert record is not None
    assert (record.event, record.reason, record.count) == ("job_refused", "forged", 2)
    assert read(raw) is None


def test_what_is_not_ours_or_a_day_old_says_nothing() -> None:
    """A forged report, bytes of anybody, and one that was kept for later."""
    clock = TurnedClock()
    read = reader(clock)
    assert read(b"junk") is None
    assert read(encode_report(make_report("notified", clock.time), report_key(bytes([1]) * 32))) is None
    assert read(encode_report(make_report("notified", clock.time - 86_400_001), KEY)) is None
