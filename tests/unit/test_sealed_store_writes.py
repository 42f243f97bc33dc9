"""Writes to the sealed cache: whatever fails, and whoever writes beside, the file is the old one or the new one."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sealed_workbench import BINDING, CANARY, FIRST, NOW, REFS, SECOND, THIRD, Host, Keeper, record

from broker_worker.cache.sealed import file as file_module
from broker_worker.cache.sealed import store as store_module
from broker_worker.cache.sealed.errors import UnavailableError
from broker_worker.core.errors import SetupError


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without a sealed cache yet."""
    return Host(tmp_path / "home")


# Writing that fails
@pytest.mark.parametrize("at", range(1, 12))
def test_fault_in_any_write_leaves_the_old_or_the_new(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A full disk at any statement: the file opens afterwards and holds all of the change or none of it."""
    store = host.keep(record())
    done = 0
    connect = sqlite3.connect

    class Full(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            nonlocal done
            done += not sql.startswith("PRAGMA")
            if done == at:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)  # type: ignore[arg-type]  # as it was called

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
        try:
            store.commit({FIRST: record(value=b"new", at=NOW + 1), SECOND: record(SECOND)}, 100)
            is_written = True
        except SetupError:
            is_written = False
    host.now += 2
    assert host.values() == ({FIRST: b"new", SECOND: CANARY} if is_written else {FIRST: CANARY})
    store.commit({FIRST: record(value=b"new", at=NOW + 1), SECOND: record(SECOND)}, 100)
    assert host.values() == {FIRST: b"new", SECOND: CANARY}


def test_really_full_disk_is_said_and_overcome(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own failure, here by a bound on the pages of the file."""
    store = host.keep(record())
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "_PRAGMAS", (*file_module._PRAGMAS, "PRAGMA max_page_count = 5"))
        with pytest.raises(SetupError, match="SQLITE_FULL"):
            store.commit({ref: record(ref, CANARY * 100) for ref in REFS}, 100)
    assert host.values() == {FIRST: CANARY}
    store.commit({ref: record(ref, CANARY * 100) for ref in REFS}, 100)
    assert set(host.values()) == REFS


def test_counter_that_cannot_be_written_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is then one generation ahead, as after a crash, and still opens."""
    store = host.keep(record())

    def full(_path: Path, _content: bytes) -> None:
        raise SetupError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("broker_worker.cache.sealed.counter.write_private", full)
        with pytest.raises(UnavailableError, match="no space left"):
            store.commit({SECOND: record(SECOND)}, 100)
    assert set(host.values()) == {FIRST, SECOND}
    store.commit({THIRD: record(THIRD)}, 100)
    assert set(host.values()) == {FIRST, SECOND, THIRD}


# Several processes
def test_two_writers_at_once_lose_nothing(host: Host) -> None:
    """Each change of each of them is in the file."""
    host.keep()
    failures: list[BaseException] = []

    def write(refs: list[str]) -> None:
        try:
            store = host.store()
            store.open(REFS, BINDING)
            for ref in refs:
                store.commit({ref: record(ref)}, 100)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test says so
            failures.append(error)

    half = len(REFS) // 2
    threads = [threading.Thread(target=write, args=(part,)) for part in (sorted(REFS)[:half], sorted(REFS)[half:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(host.values()) == REFS


def test_lock_that_is_held_for_long_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    host.keep(record())
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.05)
    with host.store()._locked(), pytest.raises(SetupError, match="held by another process"):
        host.store().open(REFS, BINDING)


_WRITER = """
    import sys
    from pathlib import Path
    sys.path[:0] = sys.argv[2:]
    from sealed_workbench import BINDING, CANARY, NOW, REFS, Host, record
    host = Host(Path(sys.argv[1]))
    store = host.store()
    store.open(REFS, BINDING)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        store.commit({ref: record(ref, CANARY + b"%d" % number, NOW + number) for ref in REFS}, 100)
        print(number, flush=True)
"""


def test_writer_killed_in_the_middle_leaves_a_whole_file(host: Host) -> None:
    """Killed with SIGKILL at any moment: what opens next is one whole change, never older than the last finished."""
    script = textwrap.dedent(_WRITER)
    paths = [str(Path(__file__).parents[1] / "integration"), str(Path(__file__).parents[2])]
    for rounds in range(4):
        command = [sys.executable, "-c", script, str(host.file.parents[1]), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3 + rounds)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
            process.wait()
        finished = int(lines[-1])
        host.now = NOW + 10_000
        found = host.values()
        assert set(found) == REFS
        (value,) = set(found.values())
        assert finished <= int(value.removeprefix(CANARY)) <= finished + 1
        host.store().clear()
        host.now = NOW


# Steps of the counter
def test_counter_that_wears_out_is_spared(tmp_path: Path) -> None:
    """It steps once an interval, and when a process ends; an older copy from before the last step is refused."""
    keeper = Keeper(interval=900)
    host = Host(tmp_path / "home", master_key="tpm", makers={"tpm": lambda: keeper})
    seconds = 0.0
    store = host.store()
    store._monotonic = lambda: seconds
    store.open(REFS, BINDING)
    (count,) = keeper.counts.values()
    for number in range(5):
        store.commit({FIRST: record(at=NOW + number)}, 100)
    assert list(keeper.counts.values()) == [count]
    shutil.copy(host.file, tmp_path / "older")
    seconds = 901.0
    store.commit({FIRST: record(value=b"new", at=NOW + 6)}, 100)
    assert list(keeper.counts.values()) == [count + 1]
    store.commit({SECOND: record(SECOND)}, 100)
    store.commit({}, 100, is_last=True)
    assert list(keeper.counts.values()) == [count + 2]
    store.commit({}, 100, is_last=True)
    assert list(keeper.counts.values()) == [count + 2]
    host.now += 10
    assert host.values() == {FIRST: b"new", SECOND: CANARY}
    shutil.copy(tmp_path / "older", host.file)
    assert "older copy" in host.refusal()
