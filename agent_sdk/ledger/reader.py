"""Reads `sb:audit` as a consumer group: at least once, in order, and nothing that the broker did not sign."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from agent_sdk.ledger.assembly import Assembled, ChainAssembler, ChainFinding, ChainPosition, VerifiedLine
from agent_sdk.ledger.state_file import read_positions, write_positions
from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditEvent
from agent_sdk.wire.audit_chain import Fault
from agent_sdk.wire.audit_stream import unpack_segment
from agent_sdk.wire.errors import Code, SecretBrokerError, WireError
from agent_sdk.wire.sealing import KEY_BYTES

READER: Final = "reader"
"""The one consumer of a group: a chain is checked by whoever reads all of it."""
_ENTRIES: Final = 32
_MAX_FINDINGS: Final = 100
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PASSING = (RedisConnectionError, RedisTimeoutError, BusyLoadingError)
_LONGEST_WAIT: Final = 20.0
_Entries = list[tuple[str, dict[bytes, bytes] | None]]
_LOG = logging.getLogger(__name__)


class AuditNotReadable(SecretBrokerError):  # noqa: N818  # read in `except AuditNotReadable:`, as agent_sdk.errors are
    """The audit's stream cannot be read now.

    Args:
        message: what happened and what to do.
        passing: whether trying again later may help.
    """

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message, code=Code.UNAVAILABLE)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class AuditBatch:
    """Some lines of the audit, in the order of each chain.

    Args:
        lines: each is the broker's, proved by a signed checkpoint; checkpoints themselves are left out.
        findings: what was wrong with the stream; `REMOVED` says that lines were trimmed away before they were read.
        positions: how far the chains in this batch are read once it is acknowledged.
        entries: the stream entries that are done with it.
    """

    lines: tuple[VerifiedLine, ...]
    findings: tuple[ChainFinding, ...]
    positions: Mapping[str, ChainPosition]
    entries: tuple[str, ...]

    @property
    def events(self) -> Iterator[AuditEvent]:
        """The events; `event_id` names each for ever."""
        return (line.event for line in self.lines)


class AuditReader:
    """A consumer of the audit's stream.

    Iterating gives batches, waits for new ones and, when the next one is asked for, acknowledges the one before. While
    the queue is away it waits and goes on by itself. One process a group: two would each see half of a chain.

    Args:
        url: the queue's URL, with a user that may read `sb:audit` as a group.
        identity_public_key: the broker's Ed25519 identity, 32 bytes (`secret-broker keys show`).
        group: names this consumer on the queue; the queue remembers how far it acknowledged.
        state: a file that keeps how far each chain was read, so that what comes again is skipped after a restart too.
        positions: the same from the consumer's own database, instead of `state`.
        from_now: begin with what comes, not with what the stream still has; counts only for a new group.

    Raises:
        AuditNotReadable: if the state file cannot be read.
        ValueError: if both `state` and `positions` are given, the URL cannot be understood, or the identity is no key.
    """

    def __init__(
        self,
        url: str,
        identity_public_key: bytes,
        group: str,
        *,
        state: Path | str | None = None,
        positions: Iterable[ChainPosition] | None = None,
        from_now: bool = False,
    ) -> None:
        if state is not None and positions is not None:
            raise ValueError("expected either a state file or positions, not both")
        _check_key(identity_public_key)
        self._client = _client(url)
        self._group = group
        self._from_now = from_now
        self._state = None if state is None else Path(state)
        if self._state is not None:
            positions = _read_state(self._state)
        self._remembers = positions is not None
        self._identity = identity_public_key
        self._known = tuple(positions or ())
        self._assembler: ChainAssembler | None = None
        self._cursor = "0"
        self._taken: set[str] = set()
        self._done: list[str] = []
        self._current: AuditBatch | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        """Nothing is contacted yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection; what was not acknowledged comes again."""
        self.close()

    def __iter__(self) -> Iterator[AuditBatch]:
        """Give batches until `stop`; see the class.

        Raises:
            AuditNotReadable: if the queue refuses what only its operator can mend.
        """
        pause = 0.0
        while not self._stopping.is_set():
            try:
                batch = self.read()
            except AuditNotReadable as error:
                if not error.passing:
                    raise
                if not pause:
                    _LOG.warning("%s; trying again", error)
                pause = min(pause * 2, _LONGEST_PAUSE) or _FIRST_PAUSE
                self._stopping.wait(pause)
                continue
            pause = 0.0
            if batch is not None:
                yield batch
                self.acknowledge(batch)

    def stop(self) -> None:
        """End the iteration after the batch that is being worked on; may be called from any thread or signal."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def read(self, wait_seconds: float = 1.0) -> AuditBatch | None:
        """The next batch, or the last one again as long as it is not acknowledged.

        Args:
            wait_seconds: how long to wait for lines at most, up to 20 s.

        Returns:
            The batch; None if nothing came.

        Raises:
            AuditNotReadable: if the queue cannot be read; nothing is lost by trying again.
        """
        end = time.monotonic() + min(wait_seconds, _LONGEST_WAIT)
        while self._current is None:
            try:
                assembler = self._ready()
                self._send_acknowledgements()
                left = end - time.monotonic()
                entries = self._read_entries(max(1, int(left * 1000)))
            except RedisError as error:
                raise self._failure(error) from None
            self._current = self._made_of(assembler, entries)
            if left <= 0:
                break
        return self._current

    def _made_of(self, assembler: ChainAssembler, entries: _Entries) -> AuditBatch | None:
        into = Assembled()
        for entry_id, fields in entries:
            self._take(assembler, entry_id, fields, into)
        if not (into.lines or into.findings or into.positions):
            self._done += into.settled  # nothing but what was read before
            return None
        return AuditBatch(tuple(into.lines), _bounded(into.findings), dict(into.positions), tuple(into.settled))

    def acknowledge(self, batch: AuditBatch) -> None:
        """Say that a batch is done: it does not come again.

        If the queue is away just now, it is told later; should this process end before that, the batch comes again
        unless `state` or the consumer's `positions` know it.

        Args:
            batch: what `read` gave last.

        Raises:
            ValueError: if it is another one.
            AuditNotReadable: if the state file cannot be written.
        """
        if batch is not self._current or self._assembler is None:
            raise ValueError("expected the batch that was read last")
        if self._state is not None:
            try:
                write_positions(self._state, self._assembler.positions.values())
            except OSError as error:
                raise AuditNotReadable(
                    f"cannot write {self._state}: {error.strerror}; check its folder and the free space", passing=False
                ) from None
        self._current = None
        self._done += batch.entries
        try:
            self._send_acknowledgements()
        except RedisError as error:
            self._failure(error)

    def _ready(self) -> ChainAssembler:
        """The assembler, made once it is known whether the queue has heard of this group before."""
        if self._assembler is None:
            is_new = self._make_group("$" if self._from_now else "0")
            begins = (is_new or self._remembers) and not self._from_now
            self._assembler = ChainAssembler(self._identity, self._known, from_beginning=begins)
        return self._assembler

    def _make_group(self, start: str) -> bool:
        try:
            self._client.xgroup_create(keynames.AUDIT, self._group, id=start, mkstream=True)
        except ResponseError as error:
            if str(error).startswith("BUSYGROUP"):
                return False
            raise
        return True

    def _read_entries(self, wait_ms: int) -> _Entries:
        """Entries that were delivered before and not acknowledged; when there are no more of those, new ones."""
        try:
            answer: Any = self._client.xreadgroup(
                self._group, READER, {keynames.AUDIT: self._cursor}, count=_ENTRIES, block=wait_ms
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._make_group("0")  # the queue forgot everything; what is published again is known by its place
            self._cursor = "0"
            return []
        found = answer[0][1] if answer else []
        entries = [(entry_id.decode("ascii"), fields) for entry_id, fields in found]
        if self._cursor != ">":
            self._cursor = entries[-1][0] if entries else ">"
        fresh = [(entry_id, fields) for entry_id, fields in entries if entry_id not in self._taken]
        self._taken.update(entry_id for entry_id, _ in fresh)
        return fresh

    def _take(
        self, assembler: ChainAssembler, entry_id: str, fields: dict[bytes, bytes] | None, into: Assembled
    ) -> None:
        if not fields:  # trimmed between delivery and now; the chain shows what is missing
            into.settled.append(entry_id)
            return
        try:
            segment = unpack_segment(fields)
        except WireError as error:
            into.settled.append(entry_id)
            into.findings.append(ChainFinding(Fault.UNKNOWN_ENTRY, entry_id, 0, None, str(error)))
            return
        part = assembler.take(segment, entry_id)
        into.lines += part.lines
        into.findings += part.findings
        into.settled += part.settled
        into.positions.update(part.positions)

    def _send_acknowledgements(self) -> None:
        if self._done:
            self._client.xack(keynames.AUDIT, self._group, *self._done)
            self._taken.difference_update(self._done)
            self._done = []

    def _failure(self, error: RedisError) -> AuditNotReadable:
        """What to raise; and read again from the first entry that is not acknowledged, as an answer may be lost."""
        self._cursor = "0"
        passing = isinstance(error, _PASSING)
        what = type(error).__name__ if passing else str(error)
        hint = "is the queue up?" if passing else "may this user read the stream as a group?"
        return AuditNotReadable(f"the audit's stream cannot be read: {what}; {hint}", passing=passing)


def _check_key(key: object) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ValueError(
            f"the broker's identity has {KEY_BYTES} bytes; `secret-broker keys show` prints it in base64url"
        )


def _client(url: str) -> Redis:
    """A client of the queue. What is said elsewhere of a URL that is refused can repeat its password."""
    with suppress(ValueError, AttributeError):
        return Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=5.0,
            socket_timeout=30.0,
            retry=Retry(NoBackoff(), 0),  # a read that is repeated blindly would skip what the lost answer held
        )
    raise ValueError("the queue's URL must be redis://, rediss:// or unix://, with special characters escaped")


def _read_state(path: Path) -> tuple[ChainPosition, ...]:
    try:
        return read_positions(path)
    except OSError as error:
        raise AuditNotReadable(
            f"cannot read {path}: {error.strerror}; check its owner and mode", passing=False
        ) from None
    except ValueError:
        raise AuditNotReadable(
            f"{path} is not what an AuditReader wrote; move it away to begin anew", passing=False
        ) from None


def _bounded(findings: list[ChainFinding]) -> tuple[ChainFinding, ...]:
    if len(findings) <= _MAX_FINDINGS:
        return tuple(findings)
    more = len(findings) - _MAX_FINDINGS
    last = findings[_MAX_FINDINGS]
    note = replace(last, detail=f"{last.detail}; and {more - 1} more findings")
    return (*findings[:_MAX_FINDINGS], note)
