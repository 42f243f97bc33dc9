"""Batches that the disk begins with before it is sure that they are released: never one record too few."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audit_workbench import access, open_sink, runs_in, verified
from structlog.testing import capture_logs
from write_ahead_workbench import SLOW, crashed, failing, restarted, unsynced, wal

from agent_sdk.wire.audit import AuditRecord
from broker_worker.audit.sink import JsonlSink
from broker_worker.core.errors import AuditError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the audit goes; the sink makes it."""
    return tmp_path / "audit"


@pytest.fixture
def sink(folder: Path) -> Iterator[JsonlSink]:
    """An open audit with two batches that are durable in the write-ahead only."""
    opened = open_sink(folder)
    opened.append([access(1)])
    opened.append([access(2)])
    yield opened
    opened.close()


def begun(sink: JsonlSink, *numbers: int) -> list[AuditRecord]:
    """Records that the disk has, and that are not appended."""
    records = [access(number) for number in numbers]
    sink.prepare(records, begin=True)
    return records


def runs_restored(folder: Path, sink: JsonlSink) -> list[str | None]:
    """What the audit holds after the power failed: all that only the write-ahead had was lost in the chain's file."""
    copy = crashed(folder, keep=sink.position.offset - unsynced(sink))
    restarted(copy)
    assert verified(copy).warnings == []
    return runs_in(copy)[:-1]


def test_what_was_begun_is_not_written_again(sink: JsonlSink, folder: Path) -> None:
    """The disk has begun with it: appending waits for that, and makes it part of the audit."""
    records = begun(sink, 3)
    with failing("pwrite", errno.EIO, wal(folder)), failing("fdatasync", errno.EIO, sink.position.file.path):
        sink.append(records)
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-3"]


def test_a_crash_before_it_is_sure_leaves_a_record_too_many_and_never_one_too_few(
    sink: JsonlSink, folder: Path
) -> None:
    """What was begun and not appended may be found after a crash."""
    begun(sink, 3)
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-3"]


def test_what_was_begun_and_given_up_is_never_found(sink: JsonlSink, folder: Path) -> None:
    """Nothing was released on it: no crash afterwards brings it back."""
    begun(sink, 3, 3, 3)
    sink.prepare(())
    assert runs_restored(folder, sink) == ["run-1", "run-2"]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_something_else_takes_the_place_of_what_was_begun(sink: JsonlSink, folder: Path, size: int) -> None:
    """Whether it is shorter, as long or longer: only what was appended is found."""
    begun(sink, 3, 3, 3)
    sink.append([access(4)] * size)
    assert runs_restored(folder, sink) == ["run-1", "run-2", *["run-4"] * size]


def test_what_was_begun_before_something_else_was_appended_follows_it(sink: JsonlSink, folder: Path) -> None:
    """Another batch came first, so it is chained again, behind that one."""
    records = begun(sink, 3)
    sink.append([access(4)])
    sink.append(records)
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-4", "run-3"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "posix_fadvise"])
def test_what_could_not_be_begun_is_appended_as_ever(sink: JsonlSink, folder: Path, call: str) -> None:
    """A write-ahead that fails meanwhile costs a sync of the audit itself."""
    with capture_logs() as logs, failing(call, errno.EIO, wal(folder)):
        records = begun(sink, 3)
        sink.append(records)
    assert [entry["event"] for entry in logs] == ([] if call == "posix_fadvise" else [SLOW])
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-3"]


def test_what_the_disk_did_not_take_is_synced_in_the_audit_itself(sink: JsonlSink, folder: Path) -> None:
    """The system may have forgotten what it could not write, so it is not asked for that again."""
    records = begun(sink, 3)
    with capture_logs(), failing("fdatasync", errno.EIO, wal(folder)):
        sink.append(records)
    assert unsynced(sink) == 0
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-3"]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 100)], ids=["removed", "cut"])
def test_a_write_ahead_that_went_away_meanwhile_holds_nothing(
    sink: JsonlSink, folder: Path, change: Callable[[Path], None]
) -> None:
    """No restart would find what was begun there, so the audit itself is synced."""
    records = begun(sink, 3)
    change(wal(folder))
    with capture_logs() as logs:
        sink.append(records)
    assert [entry["event"] for entry in logs] == [SLOW]
    assert unsynced(sink) == 0


def test_what_was_begun_and_could_not_be_appended_is_never_found(sink: JsonlSink, folder: Path) -> None:
    """The chain's file refuses: nothing is released, and what is on disk already is taken back."""
    records = begun(sink, 3)
    with failing("write", errno.ENOSPC, sink.position.file.path), pytest.raises(AuditError):
        sink.append(records)
    sink.append([access(4)])
    assert runs_restored(folder, sink) == ["run-1", "run-2", "run-4"]


def test_what_does_not_fit_is_not_begun(folder: Path) -> None:
    """A full write-ahead is left alone until the chain's file is synced."""
    sink = open_sink(folder, write_ahead_bytes=1700)
    sink.append([access(1)])
    records = begun(sink, *[2] * 5)
    assert len(wal(folder).read_bytes()) == 1700
    sink.append(records)
    assert runs_restored(folder, sink) == ["run-1", *["run-2"] * 5]
    sink.close()
