"""Batches that the disk begins with before it is sure that they are released: never one record too few."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_workbench import access, open_sink, runs_in, verified
from structlog.testing import capture_logs
from write_ahead_workbench import SLOW, crashed, failing, restarted, unsynced, wal

from agent_sdk.wire.audit import AuditRecord
from broker_worker.audit.sink import JsonlSink
from broker_worker.core.errors import AuditError


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


def test_what_was_begun_is_not_written_again(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """The disk has begun with it: appending waits for that, and makes it part of the audit."""
    records = begun(ahead_sink, 3)
    with (
        failing("pwrite", errno.EIO, wal(audit_folder)),
        failing("fdatasync", errno.EIO, ahead_sink.position.file.path),
    ):
        ahead_sink.append(records)
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-3"]


def test_a_crash_before_it_is_sure_leaves_a_record_too_many_and_never_one_too_few(
    ahead_sink: JsonlSink, audit_folder: Path
) -> None:
    """What was begun and not appended may be found after a crash."""
    begun(ahead_sink, 3)
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-3"]


def test_what_was_begun_and_given_up_is_never_found(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """Nothing was released on it: no crash afterwards brings it back."""
    begun(ahead_sink, 3, 3, 3)
    ahead_sink.prepare(())
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2"]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_something_else_takes_the_place_of_what_was_begun(ahead_sink: JsonlSink, audit_folder: Path, size: int) -> None:
    """Whether it is shorter, as long or longer: only what was appended is found."""
    begun(ahead_sink, 3, 3, 3)
    ahead_sink.append([access(4)] * size)
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", *["run-4"] * size]


def test_what_was_begun_before_something_else_was_appended_follows_it(
    ahead_sink: JsonlSink, audit_folder: Path
) -> None:
    """Another batch came first, so it is chained again, behind that one."""
    records = begun(ahead_sink, 3)
    ahead_sink.append([access(4)])
    ahead_sink.append(records)
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-4", "run-3"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "posix_fadvise"])
def test_what_could_not_be_begun_is_appended_as_ever(ahead_sink: JsonlSink, audit_folder: Path, call: str) -> None:
    """A write-ahead that fails meanwhile costs a sync of the audit itself."""
    with capture_logs() as logs, failing(call, errno.EIO, wal(audit_folder)):
        records = begun(ahead_sink, 3)
        ahead_sink.append(records)
    assert [entry["event"] for entry in logs] == ([] if call == "posix_fadvise" else [SLOW])
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-3"]


def test_what_the_disk_did_not_take_is_synced_in_the_audit_itself(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """The system may have forgotten what it could not write, so it is not asked for that again."""
    records = begun(ahead_sink, 3)
    with capture_logs(), failing("fdatasync", errno.EIO, wal(audit_folder)):
        ahead_sink.append(records)
    assert unsynced(ahead_sink) == 0
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-3"]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 100)], ids=["removed", "cut"])
def test_a_write_ahead_that_went_away_meanwhile_holds_nothing(
    ahead_sink: JsonlSink, audit_folder: Path, change: Callable[[Path], None]
) -> None:
    """No restart would find what was begun there, so the audit itself is synced."""
    records = begun(ahead_sink, 3)
    change(wal(audit_folder))
    with capture_logs() as logs:
        ahead_sink.append(records)
    assert [entry["event"] for entry in logs] == [SLOW]
    assert unsynced(ahead_sink) == 0


def test_what_was_begun_and_could_not_be_appended_is_never_found(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """The chain's file refuses: nothing is released, and what is on disk already is taken back."""
    records = begun(ahead_sink, 3)
    with failing("write", errno.ENOSPC, ahead_sink.position.file.path), pytest.raises(AuditError):
        ahead_sink.append(records)
    ahead_sink.append([access(4)])
    assert runs_restored(audit_folder, ahead_sink) == ["run-1", "run-2", "run-4"]


def test_what_does_not_fit_is_not_begun(audit_folder: Path) -> None:
    """A full write-ahead is left alone until the chain's file is synced."""
    sink = open_sink(audit_folder, write_ahead_bytes=1700)
    sink.append([access(1)])
    records = begun(sink, *[2] * 5)
    assert len(wal(audit_folder).read_bytes()) == 1700
    sink.append(records)
    assert runs_restored(audit_folder, sink) == ["run-1", *["run-2"] * 5]
    sink.close()
