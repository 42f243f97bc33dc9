"""The run ledger's database: opened, locked, and brought to the tables that this program knows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, OperationalError

from broker_worker.core.errors import SetupError
from broker_worker.private_files import make_private_folder

_MIGRATIONS = Path(__file__).parent / "migrations"
_POSTGRESQL_LOCK = 0x5EC2E7_1ED6E2
_BUSY_MS = 10_000


def open_database(address: str, *, writing: bool = False) -> Engine:
    """Open the ledger's database; it is contacted when it is first used.

    Args:
        address: a URL as SQLAlchemy writes it: `sqlite:///…` or `postgresql://…`.
        writing: whether it is for the projection; otherwise nothing can be written.

    Raises:
        SetupError: if it is no such URL, or what it needs is not installed.
    """
    url = _read_url(address)
    if url.get_backend_name() == "sqlite":
        if writing:
            _make_file(url)
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_MS / 1000})
        event.listen(engine, "connect", _set_up_sqlite if writing else _set_up_sqlite_reader)
        if not writing:
            _follow_file(engine)
        return engine
    if find_spec("psycopg") is None:
        raise SetupError(
            "LEDGER_URL names a PostgreSQL server, and psycopg is not installed",
            hint="install secret-broker with its extra `postgresql`",
        )
    arguments = {"connect_timeout": 5, "options": "" if writing else "-c default_transaction_read_only=on"}
    return create_engine(
        url.set(drivername="postgresql+psycopg"), hide_parameters=True, pool_pre_ping=True, connect_args=arguments
    )


def name_of(engine: Engine) -> str:
    """What to call a database in messages: its URL without a password."""
    return engine.url.render_as_string(hide_password=True)


def migrate(engine: Engine) -> None:
    """Make the tables, or bring older ones up to date.

    Raises:
        SetupError: if the database is newer than this program.
        DBAPIError: if the database is away or refuses.
    """
    with engine.begin() as connection:
        script = _script()
        _refuse_newer(script, MigrationContext.configure(connection).get_current_heads(), engine)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_tables(engine: Engine) -> None:
    """Check that a reader of this program can read the database.

    Raises:
        SetupError: if it is not there, or older or newer than this program.
    """
    if engine.url.get_backend_name() == "sqlite" and not Path(engine.url.database or "").is_file():
        raise _no_ledger(engine)
    with database_errors(engine), engine.connect() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
    script = _script()
    if not heads:
        raise _no_ledger(engine)
    _refuse_newer(script, heads, engine)
    if set(heads) != set(script.get_heads()):
        raise SetupError(
            f"the ledger {name_of(engine)} was made by an older version of this program",
            hint="`secret-broker ledger run`, a part of `secret-broker up`, brings it up to date",
        )


@contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Turn what the database says into an error for people.

    Raises:
        SetupError: instead of a `DBAPIError`.
    """
    try:
        yield
    except DBAPIError as error:
        raise SetupError(
            f"the ledger {name_of(engine)} cannot be used: {said(error)}", hint=_hint_for(engine, error)
        ) from None


def _hint_for(engine: Engine, error: DBAPIError) -> str:
    if engine.url.get_backend_name() != "sqlite":
        return "is the server up, and LEDGER_URL right?"
    if is_passing(error):
        return "is there room on the disk, and may this user write the file and its folder?"
    return "the file is damaged: move it away; `ledger run`, a part of `up`, or `ledger rebuild` makes it again"


def said(error: DBAPIError) -> str:
    """The first line of what the database said."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def only_writer(engine: Engine) -> Iterator[None]:
    """Hold what only one projection may hold.

    Raises:
        SetupError: if another process writes this ledger.
        DBAPIError: if the database is away.
    """
    if engine.url.get_backend_name() == "sqlite":
        lock = FileLock(f"{engine.url.database}.lock", mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _in_use(engine) from None
        try:
            yield
        finally:
            lock.release()
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": _POSTGRESQL_LOCK}):
            raise _in_use(engine)
        try:
            yield
        finally:
            with suppress(DBAPIError):  # a lost connection has let go of it
                connection.execute(text("select pg_advisory_unlock(:key)"), {"key": _POSTGRESQL_LOCK})


class SameFile:
    """Notices that the file of an SQLite ledger was moved or replaced: what is then written, nobody would ever read.

    Args:
        engine: the database, opened for writing; of a server there is nothing to notice.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        is_file = engine.url.get_backend_name() == "sqlite"
        self._path = Path((engine.url.database or "").removeprefix("file:")) if is_file else None
        self._identity = self.look()

    def check(self) -> None:
        """See whether it is still there.

        Raises:
            SetupError: if it is not.
        """
        if self.look() != self._identity:
            raise SetupError(
                f"the ledger {name_of(self._engine)} was moved, removed or replaced while it was kept",
                hint="start `ledger run` again, as `up` does by itself: what is missing comes from the audit",
            )

    def look(self) -> tuple[int, int] | None:
        """Which file has the name now; of a server None."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_dev, found.st_ino


def _follow_file(engine: Engine) -> None:
    """Have a reader that keeps connections leave a file that was moved away for the one that has its name now."""
    same_file = SameFile(engine)

    @event.listens_for(engine, "connect")
    def note(_connection: Any, record: Any) -> None:
        record.info["file"] = same_file.look()

    @event.listens_for(engine, "checkout")
    def compare(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != same_file.look():
            raise DisconnectionError("the ledger's file was moved")  # the pool then connects anew


def is_passing(error: DBAPIError) -> bool:
    """Whether trying again later may help: the database is away, locked or full."""
    return isinstance(error, OperationalError) or error.connection_invalidated


def _in_use(engine: Engine) -> SetupError:
    return SetupError(
        f"another process writes the ledger {name_of(engine)}", hint="stop it first; `secret-broker up` runs one"
    )


def _no_ledger(engine: Engine) -> SetupError:
    return SetupError(
        f"there is no ledger at {name_of(engine)} yet",
        hint="is it the right home (--home, SECRET_BROKER_HOME)? `secret-broker up` keeps a ledger there; without it,"
        " `secret-broker ledger rebuild` makes one from the audit",
    )


def _refuse_newer(script: ScriptDirectory, heads: tuple[str, ...], engine: Engine) -> None:
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = sorted(set(heads) - known)
    if unknown:
        raise SetupError(
            f"the ledger {name_of(engine)} is newer than this program: it has the tables of {unknown[0]}",
            hint="run the program that made it, or name another database and let `ledger rebuild` fill it",
        )


def _read_url(address: str) -> URL:
    try:
        url = make_url(address.replace("postgres://", "postgresql://", 1))
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise SetupError(
            "LEDGER_URL is not the URL of a database that the ledger knows",
            hint="write sqlite:////absolute/path, or postgresql://user:password@host/database",
        )
    if url.get_backend_name() == "sqlite" and not url.database:
        raise SetupError("LEDGER_URL names no file", hint="write sqlite:////absolute/path")
    return url


def _make_file(url: URL) -> None:
    """Make the file before SQLite does, so that it and what stands beside it are the owner's alone."""
    path = Path(url.database or "")
    make_private_folder(path.parent)
    try:
        if not path.exists():
            for rest in ("-wal", "-shm"):  # of a file that was moved away; SQLite would take them for this one's
                path.with_name(path.name + rest).unlink(missing_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise SetupError(f"the ledger {path} cannot be made: {error.strerror}", hint="check its folder") from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # what a power loss takes comes again from the audit
    cursor.close()


def _set_up_sqlite_reader(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
