"""Single-use approvals are used once: across threads, processes, restarts, cut files and full disks."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import patch

import pytest

from broker_worker.core.errors import AuditError
from broker_worker.state import used_approvals
from broker_worker.state.used_approvals import KEPT_MS, UsedApprovals

NOW = 1_800_000_000_000
APPROVAL, OTHER = "0123456789abcdef", "fedcba9876543210"
REQUEST, SECOND = "00" * 16, "11" * 16


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time


@pytest.fixture
def clock() -> Clock:
    """It stands at NOW."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "state" / "used_approvals.jsonl"


@pytest.fixture
def log(path: Path, clock: Clock) -> UsedApprovals:
    """A worker's view of the file."""
    return UsedApprovals(path, clock.now)


def test_a_request_goes_on_with_what_it_used_itself(log: UsedApprovals) -> None:
    """Claimed by another worker after a crash; what others used is used for it as well."""
    log.use(APPROVAL, REQUEST, NOW)
    log.use(OTHER, SECOND, NOW)
    assert log.used(REQUEST) == {OTHER}
    assert log.used("22" * 16) == {APPROVAL, OTHER}


def test_approval_is_used_by_one_request_only(log: UsedApprovals) -> None:
    """The first request may; another may not; the first, processed again after a crash, may."""
    assert log.used() == frozenset()
    assert log.use(APPROVAL, REQUEST, NOW)
    assert not log.use(APPROVAL, SECOND, NOW)
    assert log.use(APPROVAL, REQUEST, NOW)
    assert log.use(OTHER, SECOND, NOW)
    assert log.used() == {APPROVAL, OTHER}


def test_use_is_known_to_other_workers_and_after_a_restart(path: Path, clock: Clock, log: UsedApprovals) -> None:
    """Whatever process asks, the approval is spent."""
    other = UsedApprovals(path, clock.now)
    other.used()
    log.use(APPROVAL, REQUEST, NOW)
    for reader in (other, UsedApprovals(path, clock.now)):
        assert reader.used() == {APPROVAL}
        assert not reader.use(APPROVAL, SECOND, NOW)
        assert reader.use(APPROVAL, REQUEST, NOW)
    assert len(path.read_bytes().splitlines()) == 1


def test_of_many_at_once_one_wins(path: Path, clock: Clock) -> None:
    """Workers that use one approval at the same moment do not both get it."""
    won: list[int] = []

    def use(number: int) -> None:
        if UsedApprovals(path, clock.now).use(APPROVAL, f"{number:032x}", NOW):
            won.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_of_two_processes_one_wins(path: Path) -> None:
    """The lock holds between processes, not only between threads."""
    program = (
        "import sys; from pathlib import Path; from broker_worker.state.used_approvals import UsedApprovals;"
        f"log = UsedApprovals(Path(sys.argv[1]), lambda: {NOW}); sys.stdin.read(1);"
        "print(sum(log.use(f'{n:016x}', sys.argv[2] * 32, 0) for n in range(20)))"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), digit], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for digit in "12"
    ]
    outputs = [process.communicate("g", timeout=90)[0] for process in racing]
    assert sum(map(int, outputs)) == 20


@pytest.mark.parametrize("failing", ["write", "fsync", "open"])
def test_use_that_is_not_on_disk_is_no_use(log: UsedApprovals, failing: str) -> None:
    """When the disk fails nothing is released, and the approval is not lost by that."""
    log.use(OTHER, REQUEST, NOW)
    with (
        patch.object(os, failing, side_effect=OSError(errno.EIO, "Input/output error")),
        pytest.raises(AuditError, match="cannot be recorded"),
    ):
        log.use(APPROVAL, REQUEST, NOW)
    assert log.used() == {OTHER}
    assert log.use(APPROVAL, SECOND, NOW)


def test_use_that_a_crash_cut_is_no_use(path: Path, clock: Clock, log: UsedApprovals) -> None:
    """A worker that died while it wrote released nothing."""
    log.use(OTHER, REQUEST, NOW)
    with path.open("ab") as file:
        file.write(json.dumps({"approval": APPROVAL}).encode()[:-5])
    restarted = UsedApprovals(path, clock.now)
    assert restarted.used() == {OTHER}
    assert restarted.use(APPROVAL, SECOND, NOW)
    assert UsedApprovals(path, clock.now).used() == {APPROVAL, OTHER}


@pytest.mark.parametrize("line", [b"{}", b"\0\0\0", b'{"approval":"x","request":"y","ends_at":1}'])
def test_line_that_nobody_can_read_stops_all_use(path: Path, clock: Clock, log: UsedApprovals, line: bytes) -> None:
    """It may have been the use of any approval; when it is gone, use goes on."""
    log.use(OTHER, REQUEST, NOW)
    sound = path.read_bytes()
    path.write_bytes(sound + line + b"\n")
    for reader in (log, UsedApprovals(path, clock.now)):
        with pytest.raises(AuditError, match="1 lines that are no use"):
            reader.use(APPROVAL, REQUEST, NOW)
        assert reader.used() == {OTHER}
    path.write_bytes(sound)
    assert log.use(APPROVAL, REQUEST, NOW)


@pytest.mark.parametrize("removed", [True, False])
def test_use_that_was_taken_out_of_the_file_is_known_and_written_again(
    path: Path, clock: Clock, log: UsedApprovals, removed: bool
) -> None:
    """A file that was cut or removed frees no approval while a worker runs, and not after it either."""
    log.use(APPROVAL, REQUEST, NOW)
    log.used()
    path.unlink() if removed else path.write_bytes(b"")
    assert log.used() == {APPROVAL}
    assert not log.use(APPROVAL, SECOND, NOW)
    assert log.use(OTHER, SECOND, NOW)
    assert UsedApprovals(path, clock.now).used() == {APPROVAL, OTHER}


def test_unreadable_file_leaves_what_is_known(path: Path, log: UsedApprovals) -> None:
    """Asking what was used never fails; using does."""
    log.use(APPROVAL, REQUEST, NOW)
    path.chmod(0o644)
    assert log.used() == {APPROVAL}
    with pytest.raises(AuditError, match="0644"):
        log.use(OTHER, REQUEST, NOW)


def test_uses_are_forgotten_a_day_after_their_end(
    path: Path, clock: Clock, log: UsedApprovals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file does not grow for ever, and nothing leaves it that could still be used."""
    monkeypatch.setattr(used_approvals, "PRUNE_AT", 3)
    other = UsedApprovals(path, clock.now)
    for number in range(3):
        log.use(f"{number:016x}", REQUEST, NOW)
    log.use(APPROVAL, REQUEST, NOW + 1)
    other.used()
    clock.time = NOW + KEPT_MS
    log.use(OTHER, REQUEST, clock.time)
    assert log.used() == {APPROVAL, OTHER}
    assert len(path.read_bytes().splitlines()) == 2
    assert {APPROVAL, OTHER} <= other.used()
    assert not other.use(APPROVAL, SECOND, NOW)
    assert UsedApprovals(path, clock.now).used() == {APPROVAL, OTHER}


def test_nothing_is_forgotten_before_its_time(
    path: Path, clock: Clock, log: UsedApprovals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A millisecond before the day is over everything is still there."""
    monkeypatch.setattr(used_approvals, "PRUNE_AT", 1)
    log.use(APPROVAL, REQUEST, NOW)
    clock.time = NOW + KEPT_MS - 1
    log.use(OTHER, REQUEST, NOW)
    assert UsedApprovals(path, clock.now).used() == {APPROVAL, OTHER}
