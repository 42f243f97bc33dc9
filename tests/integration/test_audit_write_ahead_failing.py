"""The write-ahead of the audit when it fails, is full or missing: every released record is on disk all the same."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from audit_workbench import IDENTITY, access, open_sink, runs_in, verified, write_log
from structlog.testing import capture_logs
from write_ahead_workbench import SLOW, WORKER, crashed, failing, forget_names, restarted, unsynced, wal

from broker_worker.audit.chain_files import list_files
from broker_worker.audit.restoration import restore_lines
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import AuditError, SetupError


def _remove(path: Path) -> None:
    path.unlink()


def _exchange(path: Path) -> None:
    path.rename(path.with_suffix(".gone"))
    path.write_bytes(bytes(256 * 1024))


def _cut(path: Path) -> None:
    os.truncate(path, 100)


def test_one_that_goes_while_it_is_made_is_not_relied_on(audit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system calls it then: a restart would not find it."""
    real = os.fsync

    def removed_meanwhile(descriptor: int) -> None:
        wal(audit_folder).unlink(missing_ok=True)
        real(descriptor)

    with capture_logs() as logs:
        monkeypatch.setattr(os, "fsync", removed_meanwhile)
        sink = open_sink(audit_folder)
        monkeypatch.undo()
        sink.append([access(1)])
    assert [entry["event"] for entry in logs] == [SLOW]
    sink.close()


@pytest.mark.parametrize("change", [_remove, _exchange, _cut])
@pytest.mark.parametrize("has_names", [True, False])
def test_without_it_the_audit_itself_is_synced(
    ahead_sink: JsonlSink, audit_folder: Path, change: Callable[[Path], None], has_names: bool
) -> None:
    """A write-ahead that a restart would not find is not relied on: all that it held is synced, and it is told once."""
    if not has_names:
        forget_names(ahead_sink)
    change(wal(audit_folder))
    synced: list[int] = []
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
        ahead_sink.append([access(3)])
        ahead_sink.append([access(4)])
    assert synced == [ahead_sink.position.file.path.stat().st_ino] * 2
    assert unsynced(ahead_sink) == 0
    assert [entry["event"] for entry in logs] == [SLOW]
    ahead_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-2", "run-3", "run-4"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "lseek", "stat"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_call_that_fails_for_it_costs_a_sync_only(
    ahead_sink: JsonlSink, audit_folder: Path, call: str, error: int
) -> None:
    """The batch is synced in the chain's file and released; the next one goes to the write-ahead again."""
    if call == "stat":
        forget_names(ahead_sink)
    with failing(call, error, wal(audit_folder)), capture_logs() as logs:
        ahead_sink.append([access(3)])
        assert unsynced(ahead_sink) == 0
    assert [entry["log_level"] for entry in logs] == ["warning"]
    ahead_sink.append([access(4)])
    assert unsynced(ahead_sink) > 0
    copy = crashed(audit_folder, keep=ahead_sink.position.offset - unsynced(ahead_sink))
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-1", "run-2", "run-3", "run-4", "run-99"]


def test_a_short_write_to_it_is_continued(
    ahead_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take a part only; the rest follows, and the round is whole."""
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:100], offset))
        ahead_sink.append([access(3)])
    assert restarted(crashed(audit_folder, keep=0)) == "restored 6 lines from the write-ahead file"


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_a_refused_batch_leaves_no_trace_in_the_round(ahead_sink: JsonlSink, audit_folder: Path, call: str) -> None:
    """Nothing is released, and what comes next stands in its place in both files."""
    chain, ahead = ahead_sink.position.file.path, wal(audit_folder)
    with failing(call, errno.EIO, chain), failing("fdatasync", errno.EIO, ahead), pytest.raises(AuditError):
        ahead_sink.append([access(3), access(3)])
    ahead_sink.append([access(4)])
    copy = crashed(audit_folder, keep=ahead_sink.position.offset - unsynced(ahead_sink))
    restarted(copy)
    assert runs_in(copy) == ["run-1", "run-2", "run-4", "run-99"]
    assert verified(copy).warnings == []


def test_a_refused_batch_does_not_come_back_with_a_crash(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """It was written behind the round before the disk refused it: nothing was released, so no restart takes it."""
    chain, ahead = ahead_sink.position.file.path, wal(audit_folder)
    with failing("fdatasync", errno.EIO, chain), failing("fdatasync", errno.EIO, ahead):
        with pytest.raises(AuditError):
            ahead_sink.append([access(3)])
        copy = crashed(audit_folder, keep=ahead_sink.position.offset - unsynced(ahead_sink))
    restarted(copy)
    assert runs_in(copy) == ["run-1", "run-2", "run-99"]


def test_pages_that_a_failed_sync_dropped_are_written_again(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """After a sync that failed the system may have forgotten the pages: the round has what was in them."""
    chain, ahead = ahead_sink.position.file.path, wal(audit_folder)
    before = chain.read_bytes()

    def drop() -> None:
        with chain.open("r+b") as file:
            file.write(bytes(len(before)))

    with failing("fdatasync", errno.EIO, chain, drop), failing("fdatasync", errno.EIO, ahead), suppress(AuditError):
        ahead_sink.append([access(3)])
    assert chain.read_bytes()[:10] == bytes(10)
    ahead_sink.append([access(4)])
    assert chain.read_bytes().startswith(before)
    assert runs_in(audit_folder) == ["run-1", "run-2", "run-4"]


def test_lines_that_only_it_holds_are_never_left_behind(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """While the chain's file can be neither cut nor synced, every batch is refused: no new chain takes the round."""
    chain, ahead = ahead_sink.position.file.path, wal(audit_folder)
    with failing("fdatasync", errno.EIO, chain), failing("ftruncate", errno.EIO, chain):
        with failing("fdatasync", errno.EIO, ahead), pytest.raises(AuditError):
            ahead_sink.append([access(3)])
        for _ in range(2):
            with pytest.raises(AuditError):
                ahead_sink.append([access(4)])
        copy = crashed(audit_folder, keep=0)
    ahead_sink.append([access(5)])
    assert restore_lines(copy, WORKER, IDENTITY) >= 4
    assert runs_in(copy)[:2] == ["run-1", "run-2"]
    ahead_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-2", "run-5"]
    assert verified(audit_folder).chains == 1


def test_a_rotation_waits_for_the_sync_of_the_file_before(audit_folder: Path) -> None:
    """The next file begins a new round, so the old one must be on disk first."""
    sink = open_sink(audit_folder, max_file_bytes=100)
    sink.append([access(1)])
    with failing("fdatasync", errno.EIO, sink.position.file.path), pytest.raises(AuditError):
        sink.append([access(2)])
    assert restarted(crashed(audit_folder, keep=0)) == "restored 2 lines from the write-ahead file"
    sink.append([access(3)])
    sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-3"]
    assert len(list_files(audit_folder)) == 2


def test_a_full_one_begins_anew_after_a_sync(audit_folder: Path) -> None:
    """A batch that does not fit is synced in the chain's file, also one that is larger than all of the write-ahead."""
    sink = open_sink(audit_folder, write_ahead_bytes=1700)
    held = []
    for size in (1, 1, 1, 9, 1):
        sink.append([access() for _ in range(size)])
        held.append(unsynced(sink))
    assert [bool(count) for count in held] == [True, True, False, False, True]
    assert wal(audit_folder).stat().st_size == 1700
    sink.close()
    assert verified(audit_folder).warnings == []


def test_a_stop_that_cannot_sync_leaves_it(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """What is not on disk in the chain's file stays in the write-ahead for the next start."""
    path = ahead_sink.position.file.path
    with failing("fdatasync", errno.EIO, path):
        ahead_sink.close()
    os.truncate(path, 0)
    assert restarted(audit_folder) == "restored 4 lines from the write-ahead file"


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_an_audit_without_room_for_it_opens(audit_folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It only makes the audit faster: without it, the chain's file is synced for every batch."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_log(audit_folder, batches=1)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, call, full)
        sink = open_sink(audit_folder)
    assert [entry["event"] for entry in logs] == [SLOW]
    assert not wal(audit_folder).exists()
    sink.append([access(7)])
    sink.close()
    assert runs_in(audit_folder) == ["run-0", "run-1", "run-7"]


def test_a_system_without_use_for_it_restores_and_removes_it(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """Where every sync empties the drive's cache there is none, but what an earlier start left is taken."""
    copy = crashed(audit_folder, keep=0)
    plain = open_sink(copy, write_ahead_bytes=0)
    plain.append([access(3)])
    assert not wal(copy).exists()
    plain.close()
    assert plain.recovery.restored_lines == 4
    assert runs_in(copy) == ["run-1", "run-2", "run-3"]


def test_one_that_cannot_be_read_keeps_the_broker_from_starting(audit_folder: Path) -> None:
    """It may hold released records, so it is never passed over."""
    write_log(audit_folder, batches=1)
    os.mkfifo(wal(audit_folder))
    with pytest.raises(SetupError, match="is not a plain file"):
        open_sink(audit_folder)
    wal(audit_folder).unlink()
    open_sink(audit_folder).close()
    assert verify_folder(audit_folder, IDENTITY).ok
