"""The ledger on a real PostgreSQL server: the same tables as on SQLite."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from audit_workbench import IDENTITY, START
from ledger_workbench import fresh_ledger, lease, project, record, rows, segments, tables, write_story
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from broker_worker.core.errors import SetupError
from broker_worker.ledger.database import check_tables, migrate, only_writer, open_database
from broker_worker.ledger.keeping import rebuild
from broker_worker.ledger.queries import list_leases, list_runs, read_status
from broker_worker.ledger.queries import story as story_of
from broker_worker.ledger.schema import METADATA


def _programs() -> Path | None:
    folders = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server on a unix socket that lives as long as this module's tests."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(tempfile.mkdtemp(prefix="sb-pg-"))
    user: dict[str, str] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user = {"user": "postgres"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    made = [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "ledger", "--no-sync"]
    subprocess.run(made, check=True, timeout=120, **quiet, **user)  # type: ignore[call-overload]  # options by name
    options = ["-c", "fsync=off", "-c", "listen_addresses=", "-k", str(folder)]
    command = [str(programs / "postgres"), "-D", str(folder / "data"), *options]
    process = subprocess.Popen(command, **quiet, **user)  # type: ignore[call-overload]  # options by name
    url = f"postgresql://ledger@/postgres?host={folder}"
    try:
        _wait_for(open_database(url))
        yield url
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(engine: Engine) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            with engine.connect():
                break
        except OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    engine.dispose()


@pytest.fixture
def engine(server: str) -> Iterator[Engine]:
    """An empty ledger with its tables."""
    engine = open_database(server, writing=True)
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The audit of two workers."""
    write_story(tmp_path / "audit")
    return tmp_path / "audit"


def test_postgresql_says_what_sqlite_says(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The same audit gives the same tables on both, in one go, in pieces, and rebuilt."""
    other = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    project(other, segments(folder))
    project(engine, segments(folder, 2))
    assert tables(engine) == tables(other)
    rebuild(engine, folder, IDENTITY)
    assert tables(engine) == tables(other)


def test_queries_answer_alike(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Runs, leases, stories and the status are the same answers on both."""
    other = fresh_ledger(tmp_path / "ledger" / "ledger.sqlite3")
    for each in (engine, other):
        project(each, segments(folder))
    assert list_runs(engine) == list_runs(other)
    for moment in (START + 100, START + 8500, START + 9_000_000):
        assert list_leases(engine, open_at=moment) == list_leases(other, open_at=moment)
    assert story_of(engine, "claude", "run-1") == story_of(other, "claude", "run-1")
    assert read_status(engine).events == read_status(other).events


def test_texts_that_postgresql_refuses_are_made_to_fit(engine: Engine, tmp_path: Path) -> None:
    """A NUL or an over-long text that an agent sent stops nothing."""
    write_story(tmp_path / "hostile", {"worker-1": [[record(purpose="a\x00b", version="v" * 500, lease_id=lease(1))]]})
    project(engine, segments(tmp_path / "hostile"))
    assert rows(engine, "events")[0]["purpose"] == "a\ufffdb"


def test_the_steps_make_the_tables_that_the_program_knows(engine: Engine) -> None:
    """The migrations and the tables in the code do not drift apart here either."""
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_only_one_process_writes(engine: Engine) -> None:
    """A second projection of the same ledger is refused, also from another host."""
    with only_writer(engine), pytest.raises(SetupError, match="another process"), only_writer(engine):
        pass
    with only_writer(engine):
        pass


def test_a_reader_cannot_write(engine: Engine, server: str) -> None:
    """What only asks opens the database so that it cannot change it."""
    reader = open_database(server)
    check_tables(reader)
    with reader.connect() as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(text("delete from events"))
    reader.dispose()
