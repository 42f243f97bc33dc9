"""What runs hold, a file a worker process: who comes after a process that is gone can still tell them that it ended.

A process holds a lock for as long as it lives, so a file whose lock is free is a dead one's, and whoever gets that lock
inherits it. Lines are written as leases begin and are not synced: a crash of the host loses the last ones, and with
them a notice. A lease counts by its token, which the broker authenticated together with who has it (`core.leases`);
there is no value in it.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Annotated, Final

import msgspec
import structlog
from filelock import FileLock, Timeout
from msgspec import Meta, Struct

from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import SetupError
from broker_worker.core.leases import Holding, LeaseMint
from broker_worker.private_files import check_private, make_private_folder

MAX_LINES: Final = 32_768
"""So many lines begin a file anew; the one before is kept, so that as many of the newest leases are always there."""
_BEFORE, _CURRENT = ".before", ".jsonl"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_log = structlog.get_logger(__name__)
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class _Actor(Struct, frozen=True, forbid_unknown_fields=True):
    agent: str
    key: Key
    run: str
    token: str


class _Held(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="held", tag_field="is"):
    agent: str
    run: str
    token: str
    key: Key
    lease: bytes
    upstream: str | None = None
    scheme: str = ""
    actor: _Actor | None = None


class _Ended(Struct, frozen=True, forbid_unknown_fields=True, tag="ended", tag_field="is"):
    lease: str


_DECODE = msgspec.json.Decoder(_Held | _Ended).decode
_ENCODE = msgspec.json.Encoder().encode


class LeaseFiles:
    """Implements `ports.LeaseLog`; `inherit` may run in a thread of its own.

    Args:
        folder: where the files are; made private.
        worker: this worker's name.
        mint: tells true leases.
        now: the time, ms since the epoch.
        max_lines: when to begin the file anew.

    Raises:
        SetupError: if the folder cannot be used.
    """

    def __init__(
        self, folder: Path, worker: str, mint: LeaseMint, now: Callable[[], int], max_lines: int = MAX_LINES
    ) -> None:
        self._folder = folder
        self._name = f"{worker}-{secrets.token_hex(4)}"
        self._mint = mint
        self._now = now
        self._max_lines = max_lines
        self._mutex = Lock()
        self._file = -1
        self._lines = 0
        self._is_torn = False
        self._trouble = ""
        self._unreadable: set[str] = set()
        make_private_folder(folder)
        self._alive = self._lock_of(self._name)
        try:
            self._alive.acquire()  # first: a file whose lock is free is a dead process's
            self._begin()
        except OSError as error:
            raise SetupError(f"{folder} cannot be used: {error.strerror}", hint="check its owner and mode") from error

    def note(self, news: Iterable[Holding | str]) -> None:
        """Note what began and ended; see `ports.LeaseLog.note`."""
        self._append([_ENCODE(_Ended(each) if isinstance(each, str) else _line_of(each)) for each in news])

    def inherit(self) -> Sequence[Holding]:
        """The open leases of processes that are gone; see `ports.LeaseLog.inherit`."""
        found: list[Holding] = []
        files = [path.name.removesuffix(_CURRENT).removesuffix(_BEFORE) for path in self._folder.glob(f"*{_CURRENT}")]
        for name in sorted({*files} - {self._name}):
            try:
                found += self._inherit_from(name)
            except (OSError, SetupError) as error:
                if name not in self._unreadable:  # it stays there, and is looked at for ever
                    self._unreadable.add(name)
                    _tell(error)
        return found

    def close(self) -> None:
        """Let another process inherit what was noted."""
        with self._mutex:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
        self._alive.release()

    def _inherit_from(self, name: str) -> list[Holding]:
        held: dict[str, Holding] = {}
        try:
            with self._lock_of(name):
                paths = [path for path in self._paths(name) if path.exists()]
                for path in paths:
                    self._read(path, held)
                self._append([_ENCODE(_line_of(holding)) for holding in held.values()])
                for path in paths:
                    path.unlink()
                with suppress(OSError):  # Windows keeps what is locked
                    (self._folder / f"{name}.lock").unlink()
        except Timeout:  # it lives, or another worker inherits just now
            return []
        return list(held.values())

    def _read(self, path: Path, held: dict[str, Holding]) -> None:
        """Take what a file says of leases that are open by their hard ends; other lines are nothing."""
        now = self._now()
        with path.open("rb") as file:
            check_private(path, os.fstat(file.fileno()), "the file of leases")
            for text in file:
                try:
                    line = _DECODE(text)
                    holding = None if isinstance(line, _Ended) else self._holding_of(line)
                except (msgspec.MsgspecError, ValueError, WireError):  # cut short, or not ours
                    continue
                if holding is None:
                    held.pop(line.lease, None)
                elif now < holding.expires_at:
                    known = held.get(holding.lease.lease_id)
                    if known is None or known.upstream is None:  # who only renewed it does not know the vault's
                        held[holding.lease.lease_id] = holding

    def _holding_of(self, line: _Held) -> Holding:
        actor = line.actor
        keeper = (line.agent, line.key) if actor is None else (actor.agent, actor.key)
        lease = self._mint.read(line.lease, *keeper)
        if lease.for_others != (actor is not None):
            raise WireError("no lease of whoever has it", reason="unknown_lease")
        return Holding(
            line.agent,
            line.run,
            line.token,
            line.key,
            lease,
            lease.ends_at,  # until when it was renewed last, only who renewed it knows
            upstream=line.upstream,
            scheme=line.scheme,
            actor=None if actor is None else keeper,
            actor_run="" if actor is None else actor.run,
            actor_token="" if actor is None else actor.token,
        )

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        with self._mutex:
            try:
                if self._file < 0 or self._lines >= self._max_lines:
                    self._begin()
                written = b"".join([line + b"\n" for line in lines])
                begin = b"\n" if self._is_torn else b""
                self._is_torn = True
                self._is_torn = os.write(self._file, begin + written) < len(begin + written)
                self._lines += len(lines)
                self._trouble = ""
            except OSError as error:
                if self._trouble != str(error):
                    self._trouble = str(error)
                    _tell(error)

    def _begin(self) -> None:
        current, before = self._paths(self._name)[::-1]
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            current.replace(before)
        self._file, self._lines = os.open(current, _FLAGS, 0o600), 0

    def _paths(self, name: str) -> tuple[Path, Path]:
        """The file before the current one, and the current one."""
        return self._folder / f"{name}{_BEFORE}{_CURRENT}", self._folder / f"{name}{_CURRENT}"

    def _lock_of(self, name: str) -> FileLock:
        return FileLock(self._folder / f"{name}.lock", timeout=0, mode=0o600, thread_local=False)


def _tell(error: Exception) -> None:
    hint = "runs are not told of the end of what is not noted here; it is refused all the same"
    _log.error("lease_files", fault=str(error), hint=hint)


def _line_of(holding: Holding) -> _Held:
    actor = holding.actor
    return _Held(
        holding.agent_id,
        holding.run_id,
        holding.token_id,
        holding.run_key,
        holding.lease.token,
        holding.upstream,
        holding.scheme,
        None if actor is None else _Actor(*actor, holding.actor_run, holding.actor_token),
    )
