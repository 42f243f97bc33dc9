"""`secret-broker ledger run`: from the files, then from the stream, through whatever the database and the queue do."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from audit_workbench import IDENTITY, TurnedClock
from filelock import FileLock, Timeout
from ledger_workbench import Gathered, fresh_ledger, project, record, rows, segments, tables, write_story
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from agent_sdk.ledger import AuditNotReadable, AuditReader, ChainAssembler
from agent_sdk.wire import keynames
from agent_sdk.wire.audit_stream import ChainSegment, pack_segment
from broker_worker.audit.sink import JsonlSink
from broker_worker.core.errors import QueueError, SetupError
from broker_worker.files.keys import create_broker_keys, load_broker_keys
from broker_worker.ledger import keeping as keeping_module
from broker_worker.ledger.database import open_database
from broker_worker.ledger.keeping import GROUP, Keeper
from broker_worker.ledger.projection import Projection
from broker_worker.settings import Settings

DEADLINE = 60.0


@pytest.fixture
def queue(valkey_url: str) -> "Iterator[Redis]":
    """A client of the empty server."""
    with Redis.from_url(valkey_url, protocol=2) as client:
        yield client


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that looks often whether it should stop."""
    monkeypatch.setattr(keeping_module, "_WAIT_SECONDS", 0.1)


def publish(queue: "Redis", *parts: ChainSegment) -> None:
    """Put segments onto the stream."""
    for part in parts:
        queue.xadd(keynames.AUDIT, pack_segment(part))  # type: ignore[arg-type]  # invariant in its stub


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, or fail."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def count(path: Path) -> int:
    """How many events a ledger's file holds; -1 as long as there are no tables."""
    try:
        with sqlite3.connect(path) as connection:
            return int(connection.execute("select count(*) from events").fetchone()[0])
    except sqlite3.OperationalError:
        return -1


@contextmanager
def keeping(valkey_url: str, path: Path, audit: Path) -> Iterator[Keeper]:
    """A keeper at work in a thread."""
    keeper = Keeper(open_database(f"sqlite:///{path}", writing=True), valkey_url, IDENTITY, audit)
    problems: list[BaseException] = []

    def run() -> None:
        try:
            keeper.run()
        except BaseException as error:  # noqa: BLE001  # shown by the test's own thread
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield keeper
    finally:
        keeper.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if problems:
        raise problems[0]


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """The audit of two workers."""
    write_story(tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the ledger will be."""
    return tmp_path / "ledger" / "ledger.sqlite3"


def test_a_fresh_ledger_begins_with_the_files_and_goes_on_with_the_stream(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path
) -> None:
    """What the stream no longer has comes from the files; what is recorded then comes by the stream."""
    total = len(Gathered().take(*segments(audit)).ids)
    with keeping(valkey_url, ledger, audit):
        until(lambda: count(ledger) == total)
        before = {segment.chain: len(segment.lines) for segment in segments(audit)}
        write_story(audit, {"worker-1": [[record(at=99_000, run_id="run-9")]]})
        publish(
            queue, *(ChainSegment(s.chain, before[s.chain], s.lines[before[s.chain] :]) for s in segments(audit)[:1])
        )
        until(lambda: count(ledger) == total + 1)
    assert rows(open_database(f"sqlite:///{ledger}"), "findings") == []


def test_a_gap_on_the_stream_is_filled_from_the_files(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path
) -> None:
    """When entries were trimmed before the ledger read them, their lines are taken from the files; no finding stays."""
    parts = segments(audit, 2)
    with keeping(valkey_url, ledger, audit.parent / "late"):
        publish(queue, parts[0])
        until(lambda: count(ledger) == 1)
        audit.rename(audit.parent / "late")
        publish(queue, *parts[3:])
        until(lambda: count(ledger) == len(Gathered().take(*parts).ids))
    assert rows(open_database(f"sqlite:///{ledger}"), "findings") == []


def test_a_gap_that_no_file_fills_is_a_finding_and_the_rest_is_kept(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path, tmp_path: Path
) -> None:
    """Where the audit's files are on another host, the ledger says what it misses and goes on."""
    parts = [part for part in segments(audit, 1) if part.chain == segments(audit)[0].chain]
    publish(queue, *parts[:2], *parts[5:])
    with keeping(valkey_url, ledger, tmp_path / "elsewhere"):
        until(lambda: count(ledger) == len(Gathered().take(*parts).ids) - 2)
    (finding,) = rows(open_database(f"sqlite:///{ledger}"), "findings")
    assert finding["fault"] == "removed"


def test_a_database_that_is_locked_or_full_loses_nothing(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is tried again until it is committed, and only then acknowledged on the queue."""
    real, refusals = Projection.apply, [OperationalError("insert", {}, sqlite3.OperationalError("disk is full"))] * 2

    def refuse_twice(self: Projection, *batch: object) -> int:
        assert queue.xpending(keynames.AUDIT, GROUP)["pending"] > 0
        if refusals:
            raise refusals.pop()
        return real(self, *batch)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(Projection, "apply", refuse_twice)
    publish(queue, *segments(audit))
    with keeping(valkey_url, ledger, tmp_path / "elsewhere"):
        until(lambda: count(ledger) == len(Gathered().take(*segments(audit)).ids))
        until(lambda: queue.xpending(keynames.AUDIT, GROUP)["pending"] == 0)
    assert refusals == []


def test_a_stop_while_the_database_is_away_ends_at_once(
    valkey_url: str, audit: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that waits for its database can be stopped."""
    tried = threading.Event()

    def refuse(_: Projection) -> None:
        tried.set()
        raise OperationalError("select", {}, sqlite3.OperationalError("unable to open database file"))

    monkeypatch.setattr(Projection, "positions", refuse)
    with keeping(valkey_url, ledger, audit):
        assert tried.wait(DEADLINE)


def test_a_queue_that_comes_late_is_waited_for(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is away at the start is tried again until it is there."""
    real, refusals = AuditReader.read, [AuditNotReadable("away", passing=True)] * 2

    def refuse_twice(self: AuditReader, wait_seconds: float = 1.0) -> object:
        if refusals:
            raise refusals.pop()
        return real(self, wait_seconds)

    monkeypatch.setattr(AuditReader, "read", refuse_twice)
    publish(queue, *segments(audit))
    with keeping(valkey_url, ledger, tmp_path / "elsewhere"):
        until(lambda: count(ledger) > 0)


def test_a_queue_that_refuses_the_ledger_is_an_error(
    valkey_url: str, queue: "Redis", ledger: Path, audit: Path
) -> None:
    """What only the operator can mend ends the keeper with an error that says so."""
    queue.acl_setuser("nobody", enabled=True, passwords=["+pw"], commands=["+ping"])
    try:
        url = valkey_url.replace("unix://", "unix://nobody:pw@")
        refused = keeping(url, ledger, audit)
        refused.__enter__()
        until(lambda: count(ledger) >= 0)  # it holds the lock then
        until(lambda: not _is_kept(ledger))
        with pytest.raises(QueueError, match="may this user"):
            refused.__exit__(None, None, None)
    finally:
        queue.acl_deluser("nobody")


def test_a_ledger_that_is_moved_away_is_noticed(valkey_url: str, queue: "Redis", ledger: Path, audit: Path) -> None:
    """Nobody would ever read what is written on into a file without a name; a new start makes it again."""
    total = len(Gathered().take(*segments(audit)).ids)
    kept = keeping(valkey_url, ledger, audit)
    kept.__enter__()
    until(lambda: count(ledger) == total)
    ledger.rename(ledger.parent / "elsewhere.sqlite3")
    until(lambda: not _is_kept(ledger))
    with pytest.raises(SetupError, match="was moved, removed or replaced"):
        kept.__exit__(None, None, None)
    with keeping(valkey_url, ledger, audit):
        until(lambda: count(ledger) == total)


def _is_kept(ledger: Path) -> bool:
    lock = FileLock(f"{ledger}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def test_a_second_keeper_is_refused(valkey_url: str, ledger: Path, audit: Path) -> None:
    """Two projections never write one ledger."""
    with keeping(valkey_url, ledger, audit):
        until(lambda: count(ledger) > 0)
        other = Keeper(open_database(f"sqlite:///{ledger}", writing=True), valkey_url, IDENTITY, audit)
        with pytest.raises(SetupError, match="another process writes the ledger"):
            other.run()


def test_a_killed_process_goes_on_where_it_was(valkey_url: str, queue: "Redis", tmp_path: Path) -> None:
    """`kill -9` in the middle: the next start has every event once, and the tables of an undisturbed ledger."""
    home = tmp_path / "home"
    settings = Settings(home=home, redis_url=valkey_url)
    home.mkdir(mode=0o700)
    create_broker_keys(settings.keys_dir, 0)
    seed = load_broker_keys(settings.keys_dir).identity_seed
    _write_many(settings.audit_dir, seed, 300)
    parts = segments(settings.audit_dir, 7)
    path = home / "ledger" / "ledger.sqlite3"
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from broker_worker.ledger.database import open_database\n"
        "from broker_worker.ledger.keeping import Keeper\n"
        "database, url, identity, audit = sys.argv[1:]\n"
        "engine = open_database(database, writing=True)\n"
        "Keeper(engine, url, bytes.fromhex(identity), Path(audit)).run()\n"
    )
    identity = load_broker_keys(settings.keys_dir).identity_public
    arguments = [f"sqlite:///{path}", valkey_url, identity.hex(), str(tmp_path / "elsewhere")]
    for round_number in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL)
        try:
            publish(queue, *parts[(round_number - 1) * len(parts) // 3 : round_number * len(parts) // 3])
            until(lambda wanted=90 * round_number: count(path) >= wanted)  # type: ignore[misc]  # its default is its type
        finally:
            process.kill()
            process.wait(DEADLINE)
    engine = open_database(arguments[0], writing=True)
    assert len(rows(engine, "events")) <= 300
    Keeper(engine, valkey_url, identity, settings.audit_dir)._catch_up()
    other = fresh_ledger(tmp_path / "other" / "ledger.sqlite3")
    project_with(other, parts, identity)
    assert tables(engine) == tables(other)


def _write_many(folder: Path, seed: bytes, events: int) -> None:
    sink = JsonlSink(folder, "worker-1", seed, TurnedClock(), write_ahead_bytes=0)
    for number in range(0, events, 5):
        sink.append([record(at=number + n, run_id=f"run-{number % 7}") for n in range(5)])
    sink.close()


def project_with(engine: Engine, parts: list[ChainSegment], identity: bytes) -> None:
    """Project segments of another broker."""
    assembler, projection = ChainAssembler(identity), Projection(engine)
    for part in parts:
        taken = assembler.take(part, "test")
        projection.apply(taken.lines, taken.findings, taken.positions)


def test_the_story_of_a_live_ledger_equals_the_rebuilt_one(
    valkey_url: str, queue: "Redis", audit: Path, ledger: Path, tmp_path: Path
) -> None:
    """What the keeper makes of the stream is what the files give."""
    publish(queue, *segments(audit, 3))
    with keeping(valkey_url, ledger, tmp_path / "elsewhere"):
        until(lambda: count(ledger) == len(Gathered().take(*segments(audit)).ids))
    other = fresh_ledger(tmp_path / "other" / "ledger.sqlite3")
    project(other, segments(audit))
    assert tables(open_database(f"sqlite:///{ledger}")) == tables(other)
