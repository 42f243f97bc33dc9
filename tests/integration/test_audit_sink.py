"""The audit on a real disk: what is written, what happens when writing fails, and what a restart finds."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_workbench import access, open_sink, read_log, runs_in, verified, write_log
from write_ahead_workbench import forget_names

from agent_sdk.wire.audit import MAX_LINE, AuditRecord, decode_line
from agent_sdk.wire.audit_chain import Fault
from broker_worker.audit import plain_file
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink
from broker_worker.core.errors import AuditError, SetupError


def failing(error: int, after: int = 0) -> Callable[..., int]:
    """A system call that works `after` times and then fails."""
    calls = iter(range(10**6))

    def call(*_: Any) -> int:
        if next(calls) >= after:
            raise OSError(error, os.strerror(error))
        return 0

    return call


# --- what is written ---------------------------------------------------------------------------------------------


def test_a_batch_is_one_write_and_one_sync(written_sink: JsonlSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records: one write, one to the write-ahead and its sync, one checkpoint at the end."""
    calls: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (calls.append(name), call(*arguments))[1]  # type: ignore[func-returns-value]  # notes

    monkeypatch.setattr(os, "write", noted("write", os.write))
    monkeypatch.setattr(os, "pwrite", noted("write ahead", os.pwrite))
    monkeypatch.setattr(os, "fdatasync", noted("sync", os.fdatasync))
    written_sink.append([access(i) for i in range(64)])
    assert calls == ["write", "write ahead", "sync"]
    events = [decode_line(line).event for line in read_log(written_sink.position.file.path)]
    assert events == ["access", "checkpoint", *["access"] * 64, "checkpoint"]


def test_no_records_write_nothing(written_sink: JsonlSink) -> None:
    """An empty batch does not even add a checkpoint."""
    before = written_sink.position
    written_sink.append([])
    assert written_sink.position == before


def test_files_are_for_the_owner_only(written_sink: JsonlSink, audit_folder: Path) -> None:
    """The folder has mode 0700, and every file in it 0600."""
    assert stat.S_IMODE(audit_folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in audit_folder.iterdir()} == {0o600}


def test_a_full_file_is_followed_by_the_next(audit_folder: Path) -> None:
    """Rotation keeps one chain without a gap over its files, named by their first sequence."""
    write_log(audit_folder, batches=10, max_file_bytes=2000)
    files = list_files(audit_folder)
    assert len(files) > 3
    assert len({file.chain for file in files}) == 1
    assert [file.first for file in files] == [decode_line(read_log(file.path)[0]).sequence for file in files]
    assert verified(audit_folder).lines == 30


def test_a_second_writer_is_refused(written_sink: JsonlSink, audit_folder: Path) -> None:
    """Two processes never write one chain; another worker name is free."""
    with pytest.raises(SetupError, match="another process writes the audit of worker 'worker-1'"):
        open_sink(audit_folder)
    open_sink(audit_folder, "worker-2").close()


def test_closing_lets_the_next_process_write(audit_folder: Path) -> None:
    """The lock ends with the writer, and a closed audit refuses records."""
    first = open_sink(audit_folder)
    first.close()
    first.close()
    with pytest.raises(AuditError, match="closed"):
        first.append([access()])
    open_sink(audit_folder).close()


@pytest.mark.parametrize("name", ["", "Worker", "a/b", "..", "w" * 65])
def test_a_worker_name_cannot_leave_the_folder(audit_folder: Path, name: str) -> None:
    """Only canonical names become file names."""
    with pytest.raises(SetupError, match="worker name"):
        open_sink(audit_folder, name)


def test_a_folder_that_others_may_enter_is_refused(audit_folder: Path) -> None:
    """Who else could write there could change the audit."""
    audit_folder.mkdir(mode=0o755)
    with pytest.raises(SetupError, match="0755"):
        open_sink(audit_folder)


def test_texts_of_any_length_never_stop_the_audit(written_sink: JsonlSink, audit_folder: Path) -> None:
    """An over-long line is shortened, not refused: nobody can silence the audit by talking much."""
    record = AuditRecord(
        v=1, event="config_rejected", timestamp=access().timestamp, reason="\x01" * 9000, purpose="é" * 9000
    )
    written_sink.append([record, access(2)])
    line = read_log(written_sink.position.file.path)[2]
    assert len(line) <= MAX_LINE
    assert (decode_line(line).purpose or "").endswith("é…")
    written_sink.close()
    assert verified(audit_folder).warnings == []


def test_a_record_that_cannot_be_encoded_is_an_audit_error(written_sink: JsonlSink, audit_folder: Path) -> None:
    """Text that is no Unicode refuses its batch, its error does not repeat it, and the next batch goes through."""
    with pytest.raises(AuditError, match="cannot be encoded: UnicodeEncodeError") as caught:
        written_sink.append([access(2), access(3, purpose="canary\ud800")])
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__
    written_sink.append([access(4)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-4"]


def test_listeners_hear_of_batches_on_disk_only(written_sink: JsonlSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed batch is not announced."""
    heard: list[int] = []
    written_sink.add_listener(lambda: heard.append(written_sink.position.sequence))
    written_sink.append([access(2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(AuditError):
            written_sink.append([access(3)])
    assert heard == [4]


def test_threads_may_append_together(written_sink: JsonlSink, audit_folder: Path) -> None:
    """Batches of several threads come one after the other in one chain."""

    def append_some() -> None:
        for _ in range(20):
            written_sink.append([access()])

    threads = [threading.Thread(target=append_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written_sink.close()
    assert verified(audit_folder).lines == 2 + 4 * 20 * 2


# --- when writing fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("write", errno.ENOSPC, "No space left on device"),
        ("write", errno.EIO, "Input/output error"),
        ("write", errno.EROFS, "Read-only file system"),
        ("fdatasync", errno.EIO, "Input/output error"),
        ("fdatasync", errno.ENOSPC, "No space left on device"),
        ("lseek", errno.EIO, "Input/output error"),
        ("stat", errno.EACCES, "Permission denied"),
    ],
)
def test_a_failed_batch_leaves_nothing_and_the_next_goes_through(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int, message: str
) -> None:
    """The error says what and what to do; the chain goes on in the same file as if nothing had been."""
    before = written_sink.position
    if call == "stat":
        forget_names(written_sink)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(error))
        with pytest.raises(AuditError, match=message) as caught:
            written_sink.append([access(2)])
    assert "broker goes on by itself" in caught.value.hint
    assert written_sink.position == before
    written_sink.append([access(3)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-3"]
    assert verified(audit_folder).chains == 1


def test_a_short_write_is_continued(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take a part only; the rest follows, and the batch is whole."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
        written_sink.append([access(2)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-2"]
    assert verified(audit_folder).warnings == []


def test_a_disk_that_fills_up_within_a_batch_leaves_no_half_line(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write and then an error: what was written is cut off at once."""
    write, parts = os.write, iter([50])

    def fill_up(fd: int, data: bytes) -> int:
        for part in parts:
            return write(fd, data[:part])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill_up)
        with pytest.raises(AuditError):
            written_sink.append([access(2)])
    assert written_sink.position.file.path.stat().st_size == written_sink.position.offset
    assert verified(audit_folder).warnings == []


def test_a_batch_that_cannot_be_cut_off_now_is_cut_off_later(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If even the cut fails, the next batch tries it again before it writes."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(AuditError):
            written_sink.append([access(2)])
    written_sink.append([access(3)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-3"]
    assert verified(audit_folder).chains == 1


def test_a_file_that_cannot_be_mended_is_followed_by_a_new_chain(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new chain holds the hash of the last good line; what was given up is a warning, not a problem."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(AuditError):
            written_sink.append([access(2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        written_sink.append([access(3)])
    written_sink.close()
    report = verified(audit_folder)
    assert report.chains == 2
    assert [finding.fault for finding in report.warnings] == [Fault.ABANDONED]


def test_a_first_batch_that_cannot_be_mended_is_followed_by_a_new_chain(
    audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same when nothing at all was good before."""
    sink = open_sink(audit_folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(AuditError):
            sink.append([access(2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        sink.append([access(3)])
    sink.close()
    assert [finding.fault for finding in verified(audit_folder).warnings] == [Fault.ABANDONED]


def test_a_rotation_that_fails_is_tried_again(audit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for another file: the batch is refused and the next one opens it."""
    sink = open_sink(audit_folder, max_file_bytes=100)
    sink.append([access(1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.ENOSPC))
        with pytest.raises(AuditError, match="No space left"):
            sink.append([access(2)])
    sink.append([access(3)])
    sink.close()
    assert len(list_files(audit_folder)) == 2
    assert verified(audit_folder).lines == 4


def test_a_full_disk_for_the_head_does_not_stop_the_audit(
    written_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the records decide; the head is written when it can be."""

    def refuse(*_: object) -> None:
        raise SetupError("no space")

    monkeypatch.setattr("broker_worker.audit.head.write_private", refuse)
    written_sink.append([access(2)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-2"]


def test_an_audit_that_cannot_be_opened_is_a_setup_error(audit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker does not start without an audit, and leaves no lock behind."""
    with monkeypatch.context() as patch:
        patch.setattr(plain_file, "plain_file_status", failing(errno.EIO))
        with pytest.raises(SetupError, match="cannot open the audit"):
            open_sink(audit_folder)
    open_sink(audit_folder).close()
