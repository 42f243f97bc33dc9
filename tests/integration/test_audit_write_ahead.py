"""The write-ahead of the audit: whatever a power loss takes from the chain's file, every released record comes back."""

import os
import tempfile
import time
from pathlib import Path

import nacl.bindings as sodium
import pytest
from audit_workbench import IDENTITY, START, access, open_sink, read_log, rewrite, runs_in, verified, write_log
from hypothesis import given, settings
from hypothesis import strategies as st
from write_ahead_workbench import WORKER, crashed, restarted, unsynced, wal

from agent_sdk.wire.audit import decode_line, encode_checkpoint, encode_line, format_time, line_hash
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.recovery import find_tail
from broker_worker.audit.restoration import restore_lines
from broker_worker.audit.sink import JsonlSink
from broker_worker.core.errors import AuditError

# --- after a power loss ------------------------------------------------------------------------------------------


def test_every_byte_that_was_not_written_comes_back(audit_folder: Path) -> None:
    """Cut anywhere behind what was synced, the file is the same again, byte for byte."""
    sink = open_sink(audit_folder, write_ahead_bytes=1700)
    for number in range(5):  # the third does not fit any more, so a round begins after it
        sink.append([access(number)])
    copy = crashed(audit_folder)
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


def test_a_restart_tells_what_it_restored(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """The number of lines goes into the recovery, whole lines in the place of torn ones are no loss."""
    copy = crashed(audit_folder, keep=100)
    assert restarted(copy) == "restored 4 lines from the write-ahead file"
    assert runs_in(copy) == ["run-1", "run-2", "run-99"]
    assert verified(copy).chains == 1


def test_a_killed_process_has_nothing_to_restore(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """What the system still had in memory is there; the restart has nothing to tell."""
    copy = crashed(audit_folder)
    assert restarted(copy) == ""
    assert not wal(copy).exists()
    assert verified(copy).warnings == []


def test_the_first_batch_of_the_next_file_comes_back(audit_folder: Path) -> None:
    """After a rotation the newest file may be empty: its first batch is in the write-ahead."""
    sink = open_sink(audit_folder, max_file_bytes=1500)
    for number in range(3):
        sink.append([access(number)])
    copy = crashed(audit_folder, keep=0)
    sink.close()
    assert len(list_files(copy)) == 2
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-0", "run-1", "run-2", "run-99"]
    assert verified(copy).chains == 1


def test_the_first_batch_of_a_new_chain_comes_back(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """The same after a file was lost and a new chain began; nothing of the old chain gets into it."""
    ahead_sink.position.file.path.rename(audit_folder.with_name("moved"))
    with pytest.raises(AuditError):
        ahead_sink.append([access(3)])
    ahead_sink.append([access(4)])
    copy = crashed(audit_folder, keep=0)
    assert restarted(copy) == "restored 2 lines from the write-ahead file"
    assert runs_in(copy) == ["run-4", "run-99"]


def test_a_crash_right_after_a_rotation_goes_on_in_the_file_before(audit_folder: Path) -> None:
    """An empty newest file and a round of the one before it, which was synced: nothing is written twice."""
    sink = open_sink(audit_folder, max_file_bytes=2000)
    for number in range(2):
        sink.append([access(number)])
    copy = crashed(audit_folder)
    sink.close()
    path = list_files(copy)[0].path
    path.with_name(f"{path.name[:-18]}{4:012d}.jsonl").touch(0o600)
    assert restarted(copy) == ""
    assert runs_in(copy) == ["run-0", "run-1", "run-99"]
    assert verified(copy).warnings == []


def test_what_earlier_rounds_left_is_not_taken(audit_folder: Path) -> None:
    """Behind a short round stand whole lines of a longer one; only the short one counts."""
    sink = open_sink(audit_folder, write_ahead_bytes=6000)
    for number in range(5):
        sink.append([access(number)])
    sink.append([access(5)])
    copy = crashed(audit_folder, keep=sink.position.offset - unsynced(sink))
    assert wal(copy).read_bytes().count(b"\n") > 4
    sink.close()
    assert restarted(copy).startswith("restored ")
    assert runs_in(copy) == [*(f"run-{number}" for number in range(6)), "run-99"]
    assert verified(copy).warnings == []


# --- what is never taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", range(4))
def test_a_changed_line_ends_what_is_taken(ahead_sink: JsonlSink, audit_folder: Path, line: int) -> None:
    """Only what a signed checkpoint before the change covers is restored."""
    copy = crashed(audit_folder, keep=0)
    lines = wal(copy).read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b"2026", b"2027", 1)
    wal(copy).write_bytes(b"\n".join(lines))
    assert restore_lines(copy, WORKER, IDENTITY) == (2 if line >= 2 else 0)
    assert runs_in(copy) == (["run-1"] if line >= 2 else [])


@pytest.mark.parametrize("seed", [None, b"\x07" * 32])
def test_lines_that_this_broker_did_not_sign_are_not_taken(
    ahead_sink: JsonlSink, audit_folder: Path, seed: bytes | None
) -> None:
    """Whoever chains a line on to the round needs the identity's key as well."""
    copy = crashed(audit_folder)
    round_ = wal(copy).read_bytes()[: unsynced(ahead_sink)]
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


def test_a_file_that_went_on_without_the_write_ahead_is_left_alone(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """A round of another history never replaces lines that continue the chain."""
    copy = crashed(audit_folder)
    rewrite(list_files(copy)[0].path, read_log(list_files(copy)[0].path)[:2])
    stale = wal(copy).read_bytes()
    wal(copy).unlink()
    (copy / f"{WORKER}.head").unlink()
    restarted(copy)
    wal(copy).write_bytes(stale)
    assert restarted(copy) == ""
    assert runs_in(copy) == ["run-1", "run-99", "run-99"]
    assert verified(copy).warnings == []


def test_a_round_that_does_not_follow_is_not_taken(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """Without the line that the round continues, the tail stays cut, and is told."""
    for number in range(3, 6):
        ahead_sink.append([access(number)])
    head, newest = audit_folder / f"{WORKER}.head", read_log(list_files(audit_folder)[-1].path)[-1]
    end = time.monotonic() + 45
    while head.read_bytes().strip() != newest:  # it is written a moment later, by a thread of its own
        assert time.monotonic() < end
    copy = crashed(audit_folder, keep=0)
    lines = wal(copy).read_bytes().split(b"\n")
    rewrite(list_files(copy)[0].path, lines[:2])
    wal(copy).write_bytes(b"\n".join(lines[4:]))
    assert "the head holds its signed checkpoint" in restarted(copy)


def test_nothing_is_restored_after_a_clean_stop(audit_folder: Path) -> None:
    """A stop takes the write-ahead away, so a tail that someone cut meanwhile is found and not put back."""
    path = write_log(audit_folder, batches=3)
    assert not wal(audit_folder).exists()
    rewrite(path, read_log(path)[:4])
    assert "the head holds its signed checkpoint 8" in restarted(audit_folder)


def test_a_verification_knows_the_file(ahead_sink: JsonlSink, audit_folder: Path) -> None:
    """It is part of an audit, beside a running broker and after a crash."""
    assert wal(audit_folder).exists()
    assert verified(audit_folder).warnings == []
