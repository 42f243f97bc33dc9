"""Which values were written, in a file of the broker's own: every worker of the host hears of it, also after a restart.

A line is written before the vault is asked and another one after. Where the second is missing nobody knows what came of
the write: the request, claimed again, then tells its own value from another's by the line's mark, which stands for the
value to whoever holds the run's or the intake key, and for nothing to anybody else.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import structlog
from msgspec import Meta, Struct

from agent_sdk.wire.messages import MAX_TTL_SECONDS, Name, Time, Version
from broker_worker.core.errors import AuditError, SetupError
from broker_worker.ports import WriteNote
from broker_worker.state.line_file import LineFile

KEPT_MS: Final = MAX_TTL_SECONDS * 1000
"""How long the newest write to a place is remembered, ms: no lease of an older version lives longer."""
REPEATED_MS: Final = 3600 * 1000
"""How long a write is remembered by its id, or by its mark if nobody knows what came of it, ms: no request is processed
again later."""
PRUNE_AT: Final = 1024
"""The file is written anew when it has so many lines more than it needed the last time."""
_log = structlog.get_logger(__name__)


class _Line(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    write_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    state: Literal["begun", "written", "failed", "unknown"]
    name: Name
    ref: Annotated[str, Meta(max_length=512)]
    at: Time
    mark: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    version: Version | None = None


_DECODE = msgspec.json.Decoder(_Line).decode
_ENCODE = msgspec.json.Encoder().encode


class WriteFile:
    """Implements `ports.WriteLog`; for several threads and processes.

    Args:
        path: the file; it need not exist.
        now: the time, ms since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        self._path = path
        self._now = now
        self._file = LineFile(path, lambda text: _read(text) is not None)
        self._mutex = threading.Lock()
        self._begun: dict[tuple[str, str], WriteNote] = {}  # a write that was claimed again may have begun twice
        self._newest: dict[str, WriteNote] = {}
        self._written: dict[str, WriteNote] = {}
        self._news: list[WriteNote] = []
        self._heard: set[tuple[str, str, int]] = set()  # a file that was pruned is read again
        self._lines = self._needed = 0
        self._trouble = ""

    def note(self, notes: Sequence[WriteNote]) -> None:
        """Keep notes, durably; see `ports.WriteLog.note`.

        Raises:
            AuditError: if that could not be made durable.
        """
        with self._mutex:
            try:
                with self._file.locked():
                    self._read_on()
                    self._file.append(*(_ENCODE(_line_of(note)) for note in notes))
                    self._read_on()
                    self._prune()
            except SetupError as error:
                raise AuditError(f"a write cannot be noted: {error}", hint=error.hint) from error

    def marks(self, ref: str) -> frozenset[str]:
        """The marks of writes to a place that did not end; see `ports.WriteLog.marks`."""
        with self._mutex:
            self._look()
            return frozenset(note.mark for note in self._begun.values() if note.ref == ref and note.mark)

    def written(self, write_id: str) -> WriteNote | None:
        """What a write of the last minutes wrote; see `ports.WriteLog.written`."""
        with self._mutex:
            self._look()
            return self._written.get(write_id)

    def poll(self) -> Sequence[WriteNote]:
        """What was written, or may have been, since the last call; see `ports.WriteLog.poll`."""
        with self._mutex:
            self._look()
            news, self._news = self._news, []
            return news

    def overdue(self, before: int) -> Sequence[WriteNote]:
        """Writes that began before a time and did not end; see `ports.WriteLog.overdue`."""
        with self._mutex:
            return [note for note in self._begun.values() if note.state == "begun" and note.at < before]

    def _look(self) -> None:
        """Read on; what is wrong with the file is told once, and what is known stays known."""
        try:
            self._read_on()
            self._trouble = ""
        except SetupError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                _log.error("write_file", fault=str(error), hint=error.hint)

    def _read_on(self) -> None:
        news = self._file.poll()
        self._lines = len(news.lines) + (0 if news.fault else self._lines)  # pruned, or damaged: what is known stays so
        notes = [note for note in map(_read, news.lines) if note is not None]
        if news.fault and notes:  # what another process pruned does not come again
            self._heard &= {(note.write_id, note.state, note.at) for note in notes}
        for note in notes:
            self._take(note)

    def _take(self, note: WriteNote) -> None:
        if note.state == "begun":
            self._begun[note.write_id, note.mark] = note
            return
        for key in [key for key in self._begun if key[0] == note.write_id]:
            began = self._begun.pop(key)
            if note.state == "unknown":  # its mark still tells its value from another's
                self._begun[key] = _with_state(began, "unknown")
        if note.state == "written" and note.at >= self._now() - REPEATED_MS:
            self._written[note.write_id] = note
        newest = self._newest.get(note.ref)
        if note.state == "failed":
            return
        if newest is None or (newest.at, newest.write_id) < (note.at, note.write_id):
            self._newest[note.ref] = note
        if (note.write_id, note.state, note.at) not in self._heard:  # whatever its time: clocks are set back
            self._heard.add((note.write_id, note.state, note.at))
            self._news.append(note)

    def _prune(self) -> None:
        """Write the file anew without what nobody needs any more."""
        now, oldest = self._now(), self._now() - KEPT_MS
        if self._lines < self._needed + PRUNE_AT:
            return
        kept_since = {"begun": oldest, "unknown": now - REPEATED_MS}
        self._begun = {key: note for key, note in self._begun.items() if note.at >= kept_since[note.state]}
        self._newest = {ref: note for ref, note in self._newest.items() if note.at >= oldest}
        kept = [_with_state(note, "begun") for note in self._begun.values()]
        kept += [_with_state(note, "unknown") for note in self._begun.values() if note.state == "unknown"]
        self._written = {key: note for key, note in self._written.items() if note.at >= now - REPEATED_MS}
        kept += {**self._written, **{note.write_id: note for note in self._newest.values()}}.values()
        self._heard = {(note.write_id, note.state, note.at) for note in kept}
        self._file.replace([_ENCODE(_line_of(note)) for note in kept])
        self._lines = self._needed = len(kept)


def _with_state(note: WriteNote, state: Literal["begun", "unknown"]) -> WriteNote:
    return WriteNote(note.write_id, state, note.name, note.ref, note.at, note.mark, note.version)


def _line_of(note: WriteNote) -> _Line:
    return _Line(note.write_id, note.state, note.name, note.ref, note.at, note.mark, note.version)


def _read(line: bytes) -> WriteNote | None:
    try:
        read = _DECODE(line)
    except (msgspec.MsgspecError, ValueError):
        return None
    return WriteNote(read.write_id, read.state, read.name, read.ref, read.at, read.mark, read.version)
