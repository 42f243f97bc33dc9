"""The newest lines of the audit, and those that come."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from agent_sdk.wire.audit import AuditEvent, decode_line
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import ChainFile, list_files
from broker_worker.audit.search import by_time
from broker_worker.core.errors import AuditError

_BLOCK = 256 * 1024


class Follower:
    """Reads the audit of all workers as it grows; checkpoints are left out.

    Args:
        folder: the audit folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.unreadable = 0
        """How many whole lines were no audit events so far."""

    def last(self, count: int) -> Sequence[AuditEvent]:
        """The newest events of all workers by time, oldest first; `poll` goes on after them.

        Raises:
            AuditError: if the folder cannot be read.
        """
        try:
            files = list_files(self._folder)
            self._read = {file.path: _whole_size(file.path) for file in files}
            newest: list[AuditEvent] = []
            for _, found in groupby(files, key=attrgetter("worker")):
                newest += self._last_of(list(found), count)
        except OSError as error:
            raise self._cannot_read(error) from error
        return sorted(newest, key=by_time)[-count:] if count else ()

    def poll(self) -> Sequence[AuditEvent]:
        """What was written since the last call, by time.

        Raises:
            AuditError: if the folder cannot be read.
        """
        try:
            events = [event for file in list_files(self._folder) for event in self._grown(file)]
        except OSError as error:
            raise self._cannot_read(error) from error
        return sorted(events, key=by_time)

    def _last_of(self, files: Sequence[ChainFile], count: int) -> Sequence[AuditEvent]:
        newest: list[AuditEvent] = []
        for file in reversed(files):
            size = self._read[file.path]
            window = 0
            events: list[AuditEvent] = []
            unreadable = self.unreadable
            while window < size and len(events) + len(newest) < count:
                window = min(size, max(_BLOCK, window * 2))
                self.unreadable = unreadable
                events = list(self._events(_tail(file.path, size, window)))
            newest = events + newest
            if len(newest) >= count:
                break
        return newest[-count:] if count else ()

    def _grown(self, file: ChainFile) -> Iterator[AuditEvent]:
        offset = self._read.get(file.path, 0)
        with file.path.open("rb") as stream:
            stream.seek(offset)
            while True:
                block = stream.read(_BLOCK)
                whole = block.rfind(b"\n") + 1
                if not whole:
                    break
                yield from self._events(block[:whole].split(b"\n")[:-1])
                offset += whole
                stream.seek(offset)
        self._read[file.path] = offset

    def _events(self, lines: Sequence[bytes]) -> Iterator[AuditEvent]:
        for line in lines:
            try:
                event = decode_line(line)
            except WireError:
                self.unreadable += 1
                continue
            if event.event != "checkpoint":
                yield event

    def _cannot_read(self, error: OSError) -> AuditError:
        return AuditError(
            f"cannot read the audit: {error.filename or self._folder}: {error.strerror}",
            hint="run it as the broker's user; name its home with --home, or the folder with --folder",
        )


def _tail(path: Path, size: int, window: int) -> Sequence[bytes]:
    """The whole lines in the last `window` of the first `size` bytes."""
    with path.open("rb") as stream:
        stream.seek(size - window)
        lines = stream.read(window).split(b"\n")[:-1]
    return lines if window == size else lines[1:]


def _whole_size(path: Path) -> int:
    """How many bytes the whole lines of a file have, judged by its last block."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = max(0, size - _BLOCK)
        stream.seek(start)
        return start + stream.read(size - start).rfind(b"\n") + 1
