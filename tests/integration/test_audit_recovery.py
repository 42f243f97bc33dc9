"""What a restarted worker finds of its audit, and how it goes on: after a stop, a crash, and someone's changes."""

from pathlib import Path

import pytest
from audit_workbench import IDENTITY, TurnedClock, access, open_sink, read_log, rewrite, verified, write_log

from agent_sdk.wire.audit import decode_line, line_hash
from agent_sdk.wire.audit_chain import Fault
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the audit goes; the sink makes it."""
    return tmp_path / "audit"


def reopened(folder: Path) -> tuple[str, str]:
    """What a restart says was out of the ordinary, and its chain; one more batch is written."""
    sink = open_sink(folder)
    sink.append([access(99)])
    sink.close()
    return str(sink.recovery), sink.position.file.chain


def test_a_restart_continues_the_chain(folder: Path) -> None:
    """A clean stop leaves nothing to tell, and the sequence goes on."""
    write_log(folder, batches=3)
    assert reopened(folder)[0] == ""
    assert verified(folder).lines == 11
    assert verified(folder).chains == 1


def test_a_restart_continues_after_a_rotation(folder: Path) -> None:
    """The newest file's first line holds the hash of the last line of the file before."""
    write_log(folder, batches=4, max_file_bytes=1000)
    assert reopened(folder)[0] == ""
    assert verified(folder).chains == 1


def test_an_empty_new_file_is_no_loss(folder: Path) -> None:
    """A crash between making a file and its first batch leaves an empty file, which goes."""
    path = write_log(folder, batches=2)
    path.with_name(f"{path.name[:-18]}{6:012d}.jsonl").touch(0o600)
    assert reopened(folder)[0] == ""
    assert verified(folder).lines == 8


def test_a_torn_line_is_cut_off_and_told(folder: Path) -> None:
    """Only the unfinished bytes go; whole lines before them stay and are covered by the next checkpoint."""
    path = write_log(folder, batches=2)
    lines = read_log(path)
    path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]) + lines[-1][:37])
    (folder / "worker-1.head").unlink()
    assert reopened(folder)[0] == "recovered 37 torn bytes; 2 lines without checkpoint"
    assert [line[:40] for line in read_log(path)[:5]] == [line[:40] for line in lines[:5]]
    assert verified(folder).warnings == []


def test_zeros_after_a_power_loss_are_torn_bytes(folder: Path) -> None:
    """File systems may leave zeros where data did not arrive."""
    path = write_log(folder, batches=2)
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert reopened(folder)[0] == "recovered 5000 torn bytes"


def test_a_file_of_torn_bytes_only_goes(folder: Path) -> None:
    """A crash within the very first batch leaves nothing that counts."""
    folder.mkdir(mode=0o700)
    (folder / f"worker-1-{'0' * 15}1-{0:012d}.jsonl").write_bytes(b'{"v":1')
    assert reopened(folder)[0] == "recovered 6 torn bytes"
    assert verified(folder).chains == 1


def test_a_cut_tail_is_told_and_never_written_over(folder: Path) -> None:
    """A restart that misses lines which its head knows begins a new chain, so the evidence stays."""
    path = write_log(folder, batches=3)
    rewrite(path, read_log(path)[:6])
    told, chain = reopened(folder)
    assert "the head holds its signed checkpoint 8" in told
    assert chain not in path.name
    assert Fault.UNLINKED in {finding.fault for finding in verify_folder(folder, IDENTITY).problems}


def test_removed_files_are_told(folder: Path) -> None:
    """With all files gone, the head still says that there were some."""
    write_log(folder, batches=3).unlink()
    assert "is missing" in reopened(folder)[0]
    assert Fault.UNLINKED in {finding.fault for finding in verify_folder(folder, IDENTITY).problems}


def test_a_removed_newest_chain_is_told(folder: Path) -> None:
    """The head names a chain that is not there, while an older one is."""
    older = write_log(folder, batches=2)
    sink = open_sink(folder)
    sink._journal = None
    sink.append([access(5)])
    sink.close()
    sink.position.file.path.unlink()
    assert "is missing" in reopened(folder)[0]
    assert older.exists()
    assert not verify_folder(folder, IDENTITY).ok


@pytest.mark.parametrize("line", [0, 3, 5])
def test_a_changed_tail_is_told_and_followed_by_a_new_chain(folder: Path, line: int) -> None:
    """The last lines are verified before anything is chained on to them."""
    path = write_log(folder, batches=2)
    lines = read_log(path)
    lines[line] = lines[line].replace(b"T", b"t", 1)
    (folder / "worker-1.head").unlink()
    rewrite(path, lines)
    told, chain = reopened(folder)
    if line == 5:  # the last checkpoint; what is before it is the business of a verification
        assert told.startswith("new chain: audit line")
        assert chain not in path.name
    assert not verify_folder(folder, IDENTITY).ok


def test_another_identity_begins_a_new_chain(folder: Path) -> None:
    """A broker with a new identity does not go on with what another one signed."""
    path = write_log(folder, batches=2)
    sink = JsonlSink(folder, "worker-1", b"\x07" * 32, TurnedClock())
    sink.close()
    assert "was not signed with this broker's identity" in str(sink.recovery)
    assert sink.position.file.chain not in path.name


def test_the_link_to_the_chain_before_is_its_last_line(folder: Path) -> None:
    """A chain that follows another begins with the hash of that one's end."""
    path = write_log(folder, batches=2)
    last = read_log(path)[-1]
    sink = open_sink(folder)
    sink._journal = None
    sink.append([access(5)])
    sink.close()
    assert decode_line(read_log(sink.position.file.path)[0]).prev == line_hash(last)


def test_leftovers_of_a_killed_process_are_cleared(folder: Path) -> None:
    """A head that was about to be written does not stay behind."""
    write_log(folder, batches=1)
    (folder / ".worker-1.head.123.abc").write_bytes(b"x")
    reopened(folder)
    assert not list(folder.glob(".*"))
