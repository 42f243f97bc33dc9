"""The write-ahead of the audit: whatever a power loss takes from the chain's file, every released record comes back."""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nacl.bindings as sodium
import pytest
from audit_workbench import IDENTITY, START, access, open_sink, read_log, rewrite, runs_in, verified, write_log
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from write_ahead_workbench import SLOW, WORKER, crashed, failing, forget_names, restarted, unsynced, wal

from agent_sdk.wire.audit import decode_line, encode_checkpoint, encode_line, format_time, line_hash
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.recovery import find_tail
from broker_worker.audit.restoration import restore_lines
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import AuditError, SetupError


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


# --- after a power loss ------------------------------------------------------------------------------------------


def test_every_byte_that_was_not_written_comes_back(folder: Path) -> None:
    """Cut anywhere behind what was synced, the file is the same again, byte for byte."""
    sink = open_sink(folder, write_ahead_bytes=1700)
    for number in range(5):  # the third does not fit any more, so a round begins after it
        sink.append([access(number)])
    copy = crashed(folder)
    path = list_files(copy)[0].path
    content, size = path.read_bytes(), sink.position.offset
    kept = size - unsynced(sink)
    sink.close()
    assert 0 < kept < size - 1500
    for keep in range(kept, size + 1):
        path.write_bytes(content[:keep])
        restored = restore_lines(copy, WORKER, IDENTITY)
        assert path.read_bytes() == content
        assert restored == content[kept:].count(b"\n") - content[kept:keep].count(b"\n")
    assert find_tail(copy, WORKER, IDENTITY).recovery.broken == ""
    assert verified(copy).warnings == []


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    file_bytes=st.sampled_from([2500, 9000, 10**9]),
    ahead_bytes=st.sampled_from([1500, 6000, 64 * 1024]),
    cut=st.floats(0, 1),
    zeros=st.integers(0, 9000),
    hole=st.tuples(st.floats(0, 1), st.integers(0, 2000)),
)
def test_whatever_pages_were_lost_every_released_record_is_there(
    batches: list[int], file_bytes: int, ahead_bytes: int, cut: float, zeros: int, hole: tuple[float, int]
) -> None:
    """Any sizes, rotations and rounds; the unsynced end cut, followed by zeros, and with a hole: nothing is missing."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "audit"
        sink = open_sink(folder, max_file_bytes=file_bytes, write_ahead_bytes=ahead_bytes)
        released = 0
        for size in batches:
            sink.append([access(released + number) for number in range(size)])
            released += size
        copy, size = crashed(folder), sink.position.offset
        kept = size - unsynced(sink)
        sink.close()
        newest = list_files(copy)[-1].path
        keep = kept + round((size - kept) * cut)
        os.truncate(newest, keep)
        os.truncate(newest, min(size, keep + zeros))
        start = kept + round((keep - kept) * hole[0])
        with newest.open("r+b") as file:
            file.seek(start)
            file.write(bytes(min(hole[1], keep - start)))
        assert "new chain" not in restarted(copy)
        assert runs_in(copy) == [*(f"run-{number}" for number in range(released)), "run-99"]
        assert verified(copy).warnings == []


def test_a_restart_tells_what_it_restored(sink: JsonlSink, folder: Path) -> None:
    """The number of lines goes into the recovery, whole lines in the place of torn ones are no loss."""
    copy = crashed(folder, keep=100)
    assert restarted(copy) == "restored 4 lines from the write-ahead file"
    assert runs_in(copy) == ["run-1", "run-2", "run-99"]
    assert verified(copy).chains == 1


def test_a_killed_process_has_nothing_to_restore(sink: JsonlSink, folder: Path) -> None:
    """What the system still had in memory is there; the restart has nothing to tell."""
    copy = crashed(folder)
    assert restarted(copy) == ""
    assert not wal(copy).exists()
    assert verified(copy).warnings == []


def test_the_first_batch_of_the_next_file_comes_back(folder: Path) -> None:
    """After a rotation the newest file may be empty: its first batch is in the write-ahead."""
    sink = open_sink(folder, max_file_bytes=1500)
    for number in range(3):
        sink.append([access(number)])
    copy = crashed(folder, keep=0)
    sink.close()
    assert len(list_files(copy)) == 2
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-0", "run-1", "run-2", "run-99"]
    assert verified(copy).chains == 1


def test_the_first_batch_of_a_new_chain_comes_back(sink: JsonlSink, folder: Path) -> None:
    """The same after a file was lost and a new chain began; nothing of the old chain gets into it."""
    sink.position.file.path.rename(folder.with_name("moved"))
    with pytest.raises(AuditError):
        sink.append([access(3)])
    sink.append([access(4)])
    copy = crashed(folder, keep=0)
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-4", "run-99"]


def test_a_crash_right_after_a_rotation_goes_on_in_the_file_before(folder: Path) -> None:
    """An empty newest file and a round of the one before it, which was synced: nothing is written twice."""
    sink = open_sink(folder, max_file_bytes=2000)
    for number in range(2):
        sink.append([access(number)])
    copy = crashed(folder)
    sink.close()
    path = list_files(copy)[0].path
    path.with_name(f"{path.name[:-18]}{4:012d}.jsonl").touch(0o600)
    assert restarted(copy) == ""
    assert runs_in(copy) == ["run-0", "run-1", "run-99"]
    assert verified(copy).warnings == []


def test_what_earlier_rounds_left_is_not_taken(folder: Path) -> None:
    """Behind a short round stand whole lines of a longer one; only the short one counts."""
    sink = open_sink(folder, write_ahead_bytes=6000)
    for number in range(5):
        sink.append([access(number)])
    sink.append([access(5)])
    copy = crashed(folder, keep=sink.position.offset - unsynced(sink))
    assert wal(copy).read_bytes().count(b"\n") > 4
    sink.close()
    assert restarted(copy).startswith("restored ")
    assert runs_in(copy) == [*(f"run-{number}" for number in range(6)), "run-99"]
    assert verified(copy).warnings == []


# --- what is never taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", range(4))
def test_a_changed_line_ends_what_is_taken(sink: JsonlSink, folder: Path, line: int) -> None:
    """Only what a signed checkpoint before the change covers is restored."""
    copy = crashed(folder, keep=0)
    lines = wal(copy).read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b"2026", b"2027", 1)
    wal(copy).write_bytes(b"\n".join(lines))
    assert restore_lines(copy, WORKER, IDENTITY) == (2 if line >= 2 else 0)
    assert runs_in(copy) == (["run-1"] if line >= 2 else [])


@pytest.mark.parametrize("seed", [None, b"\x07" * 32])
def test_lines_that_this_broker_did_not_sign_are_not_taken(sink: JsonlSink, folder: Path, seed: bytes | None) -> None:
    """Whoever chains a line on to the round needs the identity's key as well."""
    copy = crashed(folder)
    round_ = wal(copy).read_bytes()[: unsynced(sink)]
    last = decode_line(round_.split(b"\n")[-2])
    forged = encode_line(access(66), WORKER, last.chain, last.sequence + 1, line_hash(round_.split(b"\n")[-2]))
    lines = [forged]
    if seed is not None:
        secret = sodium.crypto_sign_seed_keypair(seed)[1]
        place = (WORKER, last.chain, last.sequence + 2, line_hash(forged))
        lines.append(encode_checkpoint(secret, format_time(START), *place))
    wal(copy).write_bytes(round_ + b"".join(line + b"\n" for line in lines))
    assert restarted(copy) == ""
    assert runs_in(copy) == ["run-1", "run-2", "run-99"]


def test_a_file_that_went_on_without_the_write_ahead_is_left_alone(sink: JsonlSink, folder: Path) -> None:
    """A round of another history never replaces lines that continue the chain."""
    copy = crashed(folder)
    rewrite(list_files(copy)[0].path, read_log(list_files(copy)[0].path)[:2])
    stale = wal(copy).read_bytes()
    wal(copy).unlink()
    (copy / f"{WORKER}.head").unlink()
    restarted(copy)
    wal(copy).write_bytes(stale)
    assert restarted(copy) == ""
    assert runs_in(copy) == ["run-1", "run-99", "run-99"]
    assert verified(copy).warnings == []


def test_a_round_that_does_not_follow_is_not_taken(sink: JsonlSink, folder: Path) -> None:
    """Without the line that the round continues, the tail stays cut, and is told."""
    for number in range(3, 6):
        sink.append([access(number)])
    head, newest = folder / f"{WORKER}.head", read_log(list_files(folder)[-1].path)[-1]
    end = time.monotonic() + 45
    while head.read_bytes().strip() != newest:  # it is written a moment later, by a thread of its own
        assert time.monotonic() < end
    copy = crashed(folder, keep=0)
    lines = wal(copy).read_bytes().split(b"\n")
    rewrite(list_files(copy)[0].path, lines[:2])
    wal(copy).write_bytes(b"\n".join(lines[4:]))
    assert "the head holds its signed checkpoint" in restarted(copy)


def test_nothing_is_restored_after_a_clean_stop(folder: Path) -> None:
    """A stop takes the write-ahead away, so a tail that someone cut meanwhile is found and not put back."""
    path = write_log(folder, batches=3)
    assert not wal(folder).exists()
    rewrite(path, read_log(path)[:4])
    assert "the head holds its signed checkpoint 8" in restarted(folder)


def test_a_verification_knows_the_file(sink: JsonlSink, folder: Path) -> None:
    """It is part of an audit, beside a running broker and after a crash."""
    assert wal(folder).exists()
    assert verified(folder).warnings == []


# --- when it fails -----------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    path.unlink()


def _exchange(path: Path) -> None:
    path.rename(path.with_suffix(".gone"))
    path.write_bytes(bytes(256 * 1024))


def _cut(path: Path) -> None:
    os.truncate(path, 100)


def test_one_that_goes_while_it_is_made_is_not_relied_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system calls it then: a restart would not find it."""
    real = os.fsync

    def removed_meanwhile(descriptor: int) -> None:
        wal(folder).unlink(missing_ok=True)
        real(descriptor)

    with capture_logs() as logs:
        monkeypatch.setattr(os, "fsync", removed_meanwhile)
        sink = open_sink(folder)
        monkeypatch.undo()
        sink.append([access(1)])
    assert [entry["event"] for entry in logs] == [SLOW]
    sink.close()


@pytest.mark.parametrize("change", [_remove, _exchange, _cut])
@pytest.mark.parametrize("has_names", [True, False])
def test_without_it_the_audit_itself_is_synced(
    sink: JsonlSink, folder: Path, change: Callable[[Path], None], has_names: bool
) -> None:
    """A write-ahead that a restart would not find is not relied on: all that it held is synced, and it is told once."""
    if not has_names:
        forget_names(sink)
    change(wal(folder))
    synced: list[int] = []
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
        sink.append([access(3)])
        sink.append([access(4)])
    assert synced == [sink.position.file.path.stat().st_ino] * 2
    assert unsynced(sink) == 0
    assert [entry["event"] for entry in logs] == [SLOW]
    sink.close()
    assert runs_in(folder) == ["run-1", "run-2", "run-3", "run-4"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "lseek", "stat"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_call_that_fails_for_it_costs_a_sync_only(sink: JsonlSink, folder: Path, call: str, error: int) -> None:
    """The batch is synced in the chain's file and released; the next one goes to the write-ahead again."""
    if call == "stat":
        forget_names(sink)
    with failing(call, error, wal(folder)), capture_logs() as logs:
        sink.append([access(3)])
        assert unsynced(sink) == 0
    assert [entry["log_level"] for entry in logs] == ["warning"]
    sink.append([access(4)])
    assert unsynced(sink) > 0
    copy = crashed(folder, keep=sink.position.offset - unsynced(sink))
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-1", "run-2", "run-3", "run-4", "run-99"]


def test_a_short_write_to_it_is_continued(sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part only; the rest follows, and the round is whole."""
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:100], offset))
        sink.append([access(3)])
    assert restarted(crashed(folder, keep=0)) == "restored 6 lines from the write-ahead file"


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_a_refused_batch_leaves_no_trace_in_the_round(sink: JsonlSink, folder: Path, call: str) -> None:
    """Nothing is released, and what comes next stands in its place in both files."""
    chain, ahead = sink.position.file.path, wal(folder)
    with failing(call, errno.EIO, chain), failing("fdatasync", errno.EIO, ahead), pytest.raises(AuditError):
        sink.append([access(3), access(3)])
    sink.append([access(4)])
    copy = crashed(folder, keep=sink.position.offset - unsynced(sink))
    restarted(copy)
    assert runs_in(copy) == ["run-1", "run-2", "run-4", "run-99"]
    assert verified(copy).warnings == []


def test_pages_that_a_failed_sync_dropped_are_written_again(sink: JsonlSink, folder: Path) -> None:
    """After a sync that failed the system may have forgotten the pages: the round has what was in them."""
    chain, ahead = sink.position.file.path, wal(folder)
    before = chain.read_bytes()

    def drop() -> None:
        with chain.open("r+b") as file:
            file.write(bytes(len(before)))

    with failing("fdatasync", errno.EIO, chain, drop), failing("fdatasync", errno.EIO, ahead), suppress(AuditError):
        sink.append([access(3)])
    assert chain.read_bytes()[:10] == bytes(10)
    sink.append([access(4)])
    assert chain.read_bytes().startswith(before)
    assert runs_in(folder) == ["run-1", "run-2", "run-4"]


def test_lines_that_only_it_holds_are_never_left_behind(sink: JsonlSink, folder: Path) -> None:
    """While the chain's file can be neither cut nor synced, every batch is refused: no new chain takes the round."""
    chain, ahead = sink.position.file.path, wal(folder)
    with failing("fdatasync", errno.EIO, chain), failing("ftruncate", errno.EIO, chain):
        with failing("fdatasync", errno.EIO, ahead), pytest.raises(AuditError):
            sink.append([access(3)])
        for _ in range(2):
            with pytest.raises(AuditError):
                sink.append([access(4)])
        copy = crashed(folder, keep=0)
    sink.append([access(5)])
    assert restore_lines(copy, WORKER, IDENTITY) >= 4
    assert runs_in(copy)[:2] == ["run-1", "run-2"]
    sink.close()
    assert runs_in(folder) == ["run-1", "run-2", "run-5"]
    assert verified(folder).chains == 1


def test_a_rotation_waits_for_the_sync_of_the_file_before(folder: Path) -> None:
    """The next file begins a new round, so the old one must be on disk first."""
    sink = open_sink(folder, max_file_bytes=100)
    sink.append([access(1)])
    with failing("fdatasync", errno.EIO, sink.position.file.path), pytest.raises(AuditError):
        sink.append([access(2)])
    assert restarted(crashed(folder, keep=0)) == "restored 2 lines from the write-ahead file"
    sink.append([access(3)])
    sink.close()
    assert runs_in(folder) == ["run-1", "run-3"]
    assert len(list_files(folder)) == 2


def test_a_full_one_begins_anew_after_a_sync(folder: Path) -> None:
    """A batch that does not fit is synced in the chain's file, also one that is larger than all of the write-ahead."""
    sink = open_sink(folder, write_ahead_bytes=1700)
    held = []
    for size in (1, 1, 1, 9, 1):
        sink.append([access() for _ in range(size)])
        held.append(unsynced(sink))
    assert [bool(count) for count in held] == [True, True, False, False, True]
    assert wal(folder).stat().st_size == 1700
    sink.close()
    assert verified(folder).warnings == []


def test_a_stop_that_cannot_sync_leaves_it(sink: JsonlSink, folder: Path) -> None:
    """What is not on disk in the chain's file stays in the write-ahead for the next start."""
    path = sink.position.file.path
    with failing("fdatasync", errno.EIO, path):
        sink.close()
    os.truncate(path, 0)
    assert restarted(folder) == "restored 4 lines from the write-ahead file"


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_an_audit_without_room_for_it_opens(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It only makes the audit faster: without it, the chain's file is synced for every batch."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_log(folder, batches=1)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, call, full)
        sink = open_sink(folder)
    assert [entry["event"] for entry in logs] == [SLOW]
    assert not wal(folder).exists()
    sink.append([access(7)])
    sink.close()
    assert runs_in(folder) == ["run-0", "run-1", "run-7"]


def test_a_system_without_use_for_it_restores_and_removes_it(sink: JsonlSink, folder: Path) -> None:
    """Where every sync empties the drive's cache there is none, but what an earlier start left is taken."""
    copy = crashed(folder, keep=0)
    plain = open_sink(copy, write_ahead_bytes=0)
    plain.append([access(3)])
    assert not wal(copy).exists()
    plain.close()
    assert plain.recovery.restored_lines == 4
    assert runs_in(copy) == ["run-1", "run-2", "run-3"]


def test_one_that_cannot_be_read_keeps_the_broker_from_starting(folder: Path) -> None:
    """It may hold released records, so it is never passed over."""
    write_log(folder, batches=1)
    os.mkfifo(wal(folder))
    with pytest.raises(SetupError, match="is not a plain file"):
        open_sink(folder)
    wal(folder).unlink()
    open_sink(folder).close()
    assert verify_folder(folder, IDENTITY).ok
