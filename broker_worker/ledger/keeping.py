"""Keeps the run ledger: from the audit's files where they are, then from its stream, until it is stopped.

The database may be away, locked or full: a batch is tried again until it is committed, and acknowledged on the queue
only then. If lines are missing on the stream, those that the files have are taken from there.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from agent_sdk.ledger import (
    AuditBatch,
    AuditNotReadable,
    AuditReader,
    ChainAssembler,
    ChainFinding,
    Fault,
    VerifiedLine,
)
from agent_sdk.ledger import ChainPosition as Position
from broker_worker.core.errors import AuditError, QueueError
from broker_worker.ledger.database import SameFile, is_passing, migrate, name_of, only_writer, said
from broker_worker.ledger.history import read_history
from broker_worker.ledger.projection import Projection

GROUP: Final = "ledger"
"""Names the ledger on the queue."""
_LINES_A_TRANSACTION: Final = 2000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_WAIT_SECONDS = 1.0
_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")


class StoppedError(Exception):
    """The keeper was told to stop while it waited for the database."""


@dataclass(slots=True)
class CaughtUp:
    """What the files brought: how many events were new, and what was wrong with them."""

    events: int = 0
    findings: list[ChainFinding] = field(default_factory=list)


@dataclass(slots=True)
class _Gathered:
    lines: list[VerifiedLine] = field(default_factory=list)
    findings: list[ChainFinding] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)


def catch_up(projection: Projection, folder: Path, identity_public_key: bytes) -> CaughtUp:
    """Project what the audit's files hold beyond the ledger; each line is verified.

    Args:
        projection: the ledger.
        folder: the audit folder.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.

    Raises:
        AuditError: if the folder cannot be read.
        DBAPIError: if the database refuses; what was committed stays.
    """
    positions = projection.positions()
    assembler = ChainAssembler(identity_public_key, positions)
    result, gathered = CaughtUp(), _Gathered()
    try:
        for segment, place in read_history(folder, {position.chain: position for position in positions}):
            part = assembler.take(segment, place)
            gathered.lines += part.lines
            gathered.findings += part.findings
            gathered.positions.update(part.positions)
            if len(gathered.lines) >= _LINES_A_TRANSACTION:
                gathered = _commit(projection, gathered, result)
    except OSError as error:
        raise _cannot_read(folder, error) from error
    _commit(projection, gathered, result)
    return result


def rebuild(engine: Engine, folder: Path, identity_public_key: bytes) -> CaughtUp:
    """Empty a ledger and fill it again from the audit's files; if it is cut short, `catch_up` goes on.

    Args:
        engine: the database, opened for writing.
        folder: the audit folder.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.

    Raises:
        SetupError: if another process writes the ledger, or it is newer than this program.
        AuditError: if the folder cannot be read; the ledger is then as it was.
        DBAPIError: if the database refuses.
    """
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise _cannot_read(folder, error) from error
    with only_writer(engine):
        migrate(engine)
        projection = Projection(engine)
        projection.clear()
        return catch_up(projection, folder, identity_public_key)


def _cannot_read(folder: Path, error: OSError) -> AuditError:
    return AuditError(
        f"cannot read the audit: {error.filename or folder}: {error.strerror}",
        hint="run it as a user who may read the audit folder",
    )


def _commit(projection: Projection, gathered: _Gathered, result: CaughtUp) -> _Gathered:
    if gathered.lines or gathered.findings or gathered.positions:
        result.events += projection.apply(gathered.lines, gathered.findings, gathered.positions)
        result.findings += gathered.findings
    return _Gathered()


class Keeper:
    """Keeps a ledger up to date.

    Args:
        engine: the database, opened for writing.
        queue_url: the queue, as the user `ledger`.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.
        audit_dir: the audit's files; need not exist where the workers run elsewhere.
    """

    def __init__(self, engine: Engine, queue_url: str, identity_public_key: bytes, audit_dir: Path) -> None:
        self._engine = engine
        self._url = queue_url
        self._identity = identity_public_key
        self._folder = audit_dir
        self._projection = Projection(engine)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the batch that is being written; may be called from any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the ledger until `stop`.

        Raises:
            SetupError: if the database is newer than this program, another process writes it, or its file was moved.
            QueueError: if the queue does not let the ledger read.
            AuditError: if the audit's files are there and cannot be read.
        """
        try:
            with self._opened():
                same_file = SameFile(self._engine)
                while not self._stopping.is_set():
                    self._catch_up()
                    self._follow(same_file)
        except StoppedError:
            return

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._persist(lambda: stack.enter_context(only_writer(self._engine)))
            self._persist(lambda: migrate(self._engine))
            _log.info("ledger_ready", database=name_of(self._engine))
            yield

    def _catch_up(self) -> None:
        if not self._folder.is_dir():
            return
        caught = self._persist(lambda: catch_up(self._projection, self._folder, self._identity))
        if caught.events or caught.findings:
            _log.info("ledger_caught_up", events=caught.events, findings=len(caught.findings))

    def _follow(self, same_file: SameFile) -> None:
        """Project what the stream brings until told to stop, or until the files must be asked."""
        positions = self._persist(self._projection.positions)
        with AuditReader(self._url, self._identity, GROUP, positions=positions) as reader:
            pause = 0.0
            while not self._stopping.is_set():
                try:
                    batch = reader.read(_WAIT_SECONDS)
                except AuditNotReadable as error:
                    if not error.passing:
                        raise QueueError(str(error), hint="`secret-broker doctor` checks the queue's users") from None
                    pause = self._pause(pause, "audit_stream_away", str(error))
                    continue
                pause = 0.0
                same_file.check()
                if batch is None:
                    continue
                if _lacks_lines(batch) and self._found_in_files(batch):
                    return
                self._persist(partial(self._project, batch))
                reader.acknowledge(batch)

    def _found_in_files(self, batch: AuditBatch) -> bool:
        """Take from the files what the stream no longer has; says whether a chain of the batch went on by that."""
        self._catch_up()
        before = batch.positions
        return any(
            now.chain in before and now.next_sequence >= before[now.chain].next_sequence
            for now in self._persist(self._projection.positions)
        )

    def _project(self, batch: AuditBatch) -> None:
        for finding in batch.findings:
            _log.warning("audit_finding", fault=finding.fault.value, place=finding.file, detail=finding.detail)
        self._projection.apply(batch.lines, batch.findings, batch.positions)

    def _persist(self, step: Callable[[], _Answer]) -> _Answer:
        """Do something with the database, again and again until it works or we are told to stop."""
        pause = 0.0
        while True:
            try:
                return step()
            except DBAPIError as error:
                if not is_passing(error):
                    raise
                pause = self._pause(pause, "ledger_database_away", said(error))
            if self._stopping.is_set():
                raise StoppedError

    def _pause(self, before: float, what: str, why: str) -> float:
        if not before:
            _log.warning(what, why=why, action="trying again until it can")
        pause = min(before * 2, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._stopping.wait(pause)
        return pause


def _lacks_lines(batch: AuditBatch) -> bool:
    return any(finding.fault in (Fault.REMOVED, Fault.UNLINKED) for finding in batch.findings)
