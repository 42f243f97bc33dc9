"""Which single-use approvals were used, in a file of the broker's own: a restart or a queue that forgets frees none."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import Meta, Struct

from agent_sdk.wire.messages import Time
from broker_worker.core.errors import AuditError, SetupError
from broker_worker.state.line_file import LineFile, News

KEPT_MS: Final = 24 * 3600 * 1000
"""How long a use is remembered after the end of its approval, ms."""
PRUNE_AT: Final = 256
"""Rewriting the file is worth it from so many uses on that are over."""
_log = structlog.get_logger(__name__)


class _Use(Struct, frozen=True, forbid_unknown_fields=True):
    approval: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    request: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    ends_at: Time


_DECODE = msgspec.json.Decoder(_Use).decode
_ENCODE = msgspec.json.Encoder().encode


class UsedApprovals:
    """Implements `ports.OnceLog` for all workers of a host; for several threads.

    A use that was read once is never forgotten before its time, whatever happens to the file: what went missing is
    written again by the next use. A line that nobody can read might be a use, so nothing is used until it is mended.

    Args:
        path: the file; it need not exist.
        now: the time, ms since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        self._path = path
        self._now = now
        self._file = LineFile(path, lambda text: _read(text) is not None)
        self._mutex = threading.Lock()
        self._uses: dict[str, _Use] = {}
        self._missing: list[_Use] = []
        self._unreadable = 0
        self._used: frozenset[str] | None = None
        self._trouble = ""

    def use(self, approval_id: str, request_id: str, ends_at: int) -> bool:
        """Use an approval for a request, durably; see `ports.OnceLog.use`.

        Raises:
            AuditError: if that could not be made durable.
        """
        wanted = _Use(approval_id, request_id, ends_at)
        with self._mutex:
            try:
                with self._file.locked():
                    self._take(self._file.poll())
                    self._refuse_if_unreadable()
                    known = self._uses.get(approval_id)
                    unwritten = self._missing if known else [*self._missing, wanted]
                    if unwritten:
                        self._file.append(*map(_ENCODE, unwritten))
                        self._missing = []
                        self._note(known or wanted)
                        self._prune()
            except SetupError as error:
                raise AuditError(f"the use of an approval cannot be recorded: {error}", hint=error.hint) from error
        return known is None or known.request == request_id

    def used(self, but_by: str | None = None) -> frozenset[str]:
        """The ids of all approvals that were used. If the file cannot be read, those that are known.

        Args:
            but_by: a request whose own uses are left out: it may go on with them.
        """
        with self._mutex:
            try:
                self._take(self._file.poll())
                self._trouble = ""
            except SetupError as error:
                if self._trouble != str(error):
                    self._trouble = str(error)
                    _log.error("used_approvals_file", fault=str(error), hint=error.hint)
            if self._used is None:
                self._used = frozenset(self._uses)
            if but_by is None:
                return self._used
            return frozenset(key for key, use in self._uses.items() if use.request != but_by)

    def check(self) -> int:
        """How many uses the file has.

        Raises:
            SetupError: if it cannot be read.
            AuditError: if a line of it cannot.
        """
        with self._mutex:
            self._take(self._file.poll())
            self._refuse_if_unreadable()
            return len(self._uses)

    def _take(self, news: News) -> None:
        if not news.lines and not news.fault:
            return
        read = [_read(line) for line in news.lines]
        if news.fault:
            self._unreadable = 0
            self._missing = [use for use in self._uses.values() if use not in read and not self._is_over(use)]
            if self._missing:
                fault = f"{self._path} {news.fault}; {len(self._missing)} uses that it had are written again"
                _log.error("used_approvals_file", fault=fault)
        self._unreadable += read.count(None)
        for use in read:
            if use is not None and use.approval not in self._uses:
                self._note(use)
        self._missing = [use for use in self._missing if use not in read]

    def _note(self, use: _Use) -> None:
        self._uses[use.approval] = use
        self._used = None

    def _refuse_if_unreadable(self) -> None:
        if self._unreadable:
            raise AuditError(
                f"{self._path} has {self._unreadable} lines that are no use of an approval, and may have been one",
                hint="restore the file, or remove these lines: then approvals that they named could be used again",
            )

    def _prune(self) -> None:
        over = [use for use in self._uses.values() if self._is_over(use)]
        if len(over) < PRUNE_AT:
            return
        for use in over:
            del self._uses[use.approval]
        self._used = None
        self._file.replace(self._lines())

    def _lines(self) -> Sequence[bytes]:
        return [_ENCODE(use) for use in self._uses.values()]

    def _is_over(self, use: _Use) -> bool:
        return self._now() >= use.ends_at + KEPT_MS


def _read(line: bytes) -> _Use | None:
    try:
        return _DECODE(line)
    except (msgspec.MsgspecError, ValueError):
        return None
