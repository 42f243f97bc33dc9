"""The sealed cache's SQLite file. Whoever uses it holds the store's lock: it is opened for each use and closed again.

Nothing stays open between two uses, so the file can be replaced at any time, and a process that was killed leaves
nothing behind but a journal, which the next one rolls back.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.format import FORMAT, Head, Record, Row, Sealer, checked_row, empty_head, moved
from broker_worker.core.errors import SetupError
from broker_worker.private_files import check_private

_SCHEMA = (
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), box BLOB NOT NULL)",
    "CREATE TABLE records (ref TEXT PRIMARY KEY, version TEXT, fetched_at INTEGER NOT NULL, until INTEGER NOT NULL, "
    "binding BLOB NOT NULL, salt BLOB NOT NULL, box BLOB NOT NULL) WITHOUT ROWID",
    "CREATE INDEX records_until ON records (until)",
)
_PRAGMAS = (
    "PRAGMA secure_delete = ON",  # what was deleted is overwritten, as far as the disk lets us
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA synchronous = FULL",  # a generation is on disk before its counter moves on
)
_COLUMNS = "ref, version, fetched_at, until, binding, salt, box"
_BUSY_SECONDS = 2.0
_OTHERS: Final = ("-journal", "-wal", "-shm")


class Loaded(NamedTuple):
    """What was read of a file.

    Args:
        head: the file's head, as it is now.
        records: those that were asked for and are good at the moment.
    """

    head: Head
    records: list[Record]


class SealedFile:
    """Records of one installation.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, sealer: Sealer, generation: int, now: int) -> None:
        """Make an empty file in place of whatever is there.

        Raises:
            SetupError: if it cannot be made.
        """
        self.remove()
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise _not_written(self.path, error.strerror or type(error).__name__) from error
        with self._connection() as database:
            for statement in _SCHEMA:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {FORMAT}")
            self._write_head(database, sealer, empty_head(generation, now))

    def remove(self) -> None:
        """Remove the file and what belongs to it.

        Raises:
            SetupError: if that cannot be done.
        """
        try:
            for suffix in (*_OTHERS, ""):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(self.path, error.strerror or type(error).__name__) from error

    def load(self, sealer: Sealer, check: Callable[[Head], None], is_wanted: Callable[[Row], bool]) -> Loaded:
        """Check the whole file and open what is wanted; drop what is not.

        Args:
            sealer: of the file's master key.
            check: raises `RefusedError` if the head is not the newest one.
            is_wanted: whether a row is still good.

        Raises:
            RefusedError: if anything in it is not as it was written.
            UnavailableError: if a newer program made it.
            SetupError: if it cannot be read.
        """
        with self._connection() as database:
            head = self._head(database, sealer)
            check(head)
            rows = self._all(database, sealer, head)
            records = [sealer.open(row) for row in rows if is_wanted(row)]
            unwanted = [row for row in rows if not is_wanted(row)]
            if unwanted:
                head = self._delete(database, sealer, head, unwanted)
                self._write_head(database, sealer, head)
        return Loaded(head, records)

    def examine(self, sealer: Sealer, check: Callable[[Head], None]) -> tuple[Head, list[Row]]:
        """Check the whole file and change nothing; raises as `load` does."""
        with self._connection() as database:
            head = self._head(database, sealer)
            check(head)
            return head, self._all(database, sealer, head)

    def commit(
        self,
        sealer: Sealer,
        changes: Mapping[str, Record | None],
        now: int,
        max_entries: int,
        next_head: Callable[[Head], int],
    ) -> Head:
        """Write changes, all or none of them.

        Args:
            sealer: of the file's master key.
            changes: per reference its record, or None if there is no value any more.
            now: the time, ms since the epoch; what is over is dropped.
            max_entries: how many records there may be; those that end first make room.
            next_head: given the head, the generation to write; raises `RefusedError` if the head is an older one.

        Raises:
            RefusedError: if the file is not the one that this key wrote last.
            SetupError: if it cannot be written; it is then as it was.
        """
        with self._connection() as database:
            head = self._head(database, sealer)
            generation = next_head(head)
            for ref, record in changes.items():
                head = self._change(database, sealer, head, ref, record)
            over = self._rows(database, "WHERE until <= ?", now)
            head = self._delete(database, sealer, head, over)
            surplus = head.count - max_entries
            if surplus > 0:
                first = self._rows(database, "ORDER BY until LIMIT ?", surplus)
                head = self._delete(database, sealer, head, first)
            head = Head(generation, head.count, head.total, max(head.seen_at, now))
            self._write_head(database, sealer, head)
        return head

    def _change(
        self, database: sqlite3.Connection, sealer: Sealer, head: Head, ref: str, record: Record | None
    ) -> Head:
        there = self._rows(database, "WHERE ref = ?", ref)
        if record is not None and any(row.fetched_at > record.fetched_at for row in there):
            return head  # another process asked the vault later than we did
        head = self._delete(database, sealer, head, there)
        if record is None:
            return head
        row = sealer.seal(record)
        database.execute(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608  # our own constant
        return Head(head.generation, head.count + 1, moved(head.total, sealer.mark(row), 0), head.seen_at)

    @staticmethod
    def _delete(database: sqlite3.Connection, sealer: Sealer, head: Head, rows: Iterable[Row]) -> Head:
        count, total = head.count, head.total
        for row in rows:
            database.execute("DELETE FROM records WHERE ref = ?", (row.ref,))
            count, total = count - 1, moved(total, 0, sealer.mark(row))
        if count < 0:
            raise RefusedError("the sealed cache has records that nobody wrote")
        return Head(head.generation, count, total, head.seen_at)

    def _all(self, database: sqlite3.Connection, sealer: Sealer, head: Head) -> list[Row]:
        """Every row, once it is certain that they are those that the head stands for."""
        (count,) = database.execute("SELECT count(*) FROM records").fetchone()
        rows = self._rows(database) if count == head.count else []
        total = moved(bytes(len(head.total)), sum(map(sealer.mark, rows)), 0)
        if count != head.count or total != head.total:
            raise RefusedError("records of the sealed cache were exchanged, added or taken away since it was written")
        return rows

    @staticmethod
    def _rows(database: sqlite3.Connection, where: str = "", *values: object) -> list[Row]:
        found = database.execute(f"SELECT {_COLUMNS} FROM records {where}", values)  # noqa: S608  # our own constants
        return [checked_row(row) for row in found]

    def _head(self, database: sqlite3.Connection, sealer: Sealer) -> Head:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise UnavailableError(
                f"{self.path} has format {version}; this program knows {FORMAT}",
                hint="upgrade secret-broker, or run `secret-broker cache clear`",
            )
        schema = {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master") if sql is not None}
        if version != FORMAT or schema != set(_SCHEMA):
            raise RefusedError(f"{self.path} is not a sealed cache, or was cut short")
        found = database.execute("SELECT box FROM head WHERE one = 1").fetchone()
        if found is None or type(found[0]) is not bytes:
            raise RefusedError("the sealed cache has no head")
        return sealer.open_head(found[0])

    @staticmethod
    def _write_head(database: sqlite3.Connection, sealer: Sealer, head: Head) -> None:
        database.execute("INSERT OR REPLACE INTO head (one, box) VALUES (1, ?)", (sealer.seal_head(head),))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the file, then it is closed again."""
        self._check()
        address = f"{self.path.as_uri()}?mode=rw"
        try:
            database = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise _not_written(self.path, _name_of(error)) from error
        try:
            for pragma in _PRAGMAS:
                database.execute(pragma)
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise _not_written(self.path, _name_of(error)) from error
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:  # pages that are not what they should be
            raise RefusedError(f"{self.path} is damaged or cut short") from error
        finally:
            with suppress(sqlite3.Error):
                database.close()  # what was not committed is rolled back

    def _check(self) -> None:
        """Refuse what is no plain file of ours alone.

        Raises:
            RefusedError: if it is missing or anything else.
        """
        try:
            status = self.path.lstat()
            check_private(self.path, status, "the sealed cache")
        except FileNotFoundError:
            raise RefusedError(f"{self.path} is gone") from None
        except OSError as error:
            raise _not_written(self.path, error.strerror or type(error).__name__) from error
        except SetupError as error:
            raise RefusedError(str(error), hint=error.hint) from None
        if not self.path.is_file() or self.path.is_symlink():
            raise RefusedError(f"{self.path} is not a plain file")


def _name_of(error: sqlite3.Error) -> str:
    """SQLite's own name for an error; its text may repeat what it was given."""
    return str(getattr(error, "sqlite_errorname", "")) or type(error).__name__


def _not_written(path: Path, why: str) -> SetupError:
    return SetupError(
        f"the sealed cache {path} cannot be read or written: {why}",
        hint="check the folder's owner, mode and free space",
    )
