"""Finds events in the audit's files."""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path

from agent_sdk.wire.audit import AuditEvent, decode_line
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import ChainFile, iterate_lines, list_files
from broker_worker.core.errors import AuditError

by_time: Callable[[AuditEvent], str] = attrgetter("timestamp")


@dataclass(frozen=True, slots=True)
class Query:
    """Which events are wanted; None leaves a field open. Times are in the audit's own form.

    Args:
        agent: the agent id.
        run: the run id.
        secret: the secret name.
        outcome: `granted` or `refused`.
        event: the event type; None for all but checkpoints.
        since: the earliest time.
        until: the latest time.
    """

    agent: str | None = None
    run: str | None = None
    secret: str | None = None
    outcome: str | None = None
    event: str | None = None
    since: str | None = None
    until: str | None = None

    def matches(self, event: AuditEvent) -> bool:
        """Whether an event is wanted."""
        if event.event != self.event and (self.event is not None or event.event == "checkpoint"):
            return False
        if self.since is not None and event.timestamp < self.since:
            return False
        if self.until is not None and event.timestamp > self.until:
            return False
        pairs = (
            (self.agent, event.agent_id),
            (self.run, event.run_id),
            (self.secret, event.secret_name),
            (self.outcome, event.outcome),
        )
        return all(wanted is None or wanted == found for wanted, found in pairs)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        events: by time, oldest first.
        unreadable: how many lines were no audit events; verification says which.
    """

    events: Sequence[AuditEvent]
    unreadable: int


def search(folder: Path, query: Query, limit: int) -> Found:
    """Find the newest events that are wanted. Nothing is verified here.

    Args:
        folder: the audit folder.
        query: which events.
        limit: how many at most.

    Raises:
        AuditError: if the folder cannot be read.
    """
    unreadable = UnreadableLines()
    newest = deque(find(folder, query, unreadable), maxlen=limit)
    return Found(tuple(newest), unreadable.count)


class UnreadableLines:
    """Counts lines that are no audit events."""

    count = 0


def find(folder: Path, query: Query, unreadable: UnreadableLines) -> Iterator[AuditEvent]:
    """Yield the events that are wanted by time, oldest first, in memory that does not grow. Nothing is verified here.

    Args:
        folder: the audit folder.
        query: which events.
        unreadable: counts what cannot be read, as it is met.

    Raises:
        AuditError: if the folder cannot be read.
    """
    try:
        by_worker = [list(found) for _, found in groupby(list_files(folder), key=attrgetter("worker"))]
        streams = [_wanted(_recent(files, query.since), query, unreadable) for files in by_worker]
        yield from heapq.merge(*streams, key=by_time)
    except OSError as error:
        raise AuditError(
            f"cannot read the audit: {error.filename or folder}: {error.strerror}",
            hint="run it as the broker's user; name its home with --home, or the folder with --folder",
        ) from error


def _wanted(files: Sequence[ChainFile], query: Query, unreadable: UnreadableLines) -> Iterator[AuditEvent]:
    for file in files:
        for event in _events_of(file):
            if event is None:
                unreadable.count += 1
            elif query.matches(event):
                yield event


def _events_of(file: ChainFile) -> Iterator[AuditEvent | None]:
    with file.path.open("rb") as stream:
        for line, is_whole in iterate_lines(stream, file.path.stat().st_size):
            if is_whole:
                yield _decoded(line)


def _decoded(line: bytes) -> AuditEvent | None:
    try:
        return decode_line(line)
    except WireError:
        return None


def _recent(files: Sequence[ChainFile], since: str | None) -> Sequence[ChainFile]:
    """The files that can hold events since a time: one whose next file begins before it cannot."""
    if since is None:
        return files
    old = 0
    for count, (_, following) in enumerate(pairwise(files), 1):
        first = next(_events_of(following), None)
        if first is not None and first.timestamp < since:
            old = count
    return files[old:]
