"""Puts the lines of all chains in order and lets through only what a signed checkpoint covers. It does no I/O.

A line's `prev` is the hash of the line before it, and a checkpoint is signed, so whoever walks back from a valid
checkpoint by hashes sees nothing but the broker's own lines (docs/protocol.md, "Audit"). Lines wait for the checkpoint
that covers them; lines that somebody else put on the queue are never reached, whichever place they claim.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_sdk.wire.audit import GENESIS, AuditEvent, decode_line, line_hash, parse_time, verify_checkpoint
from agent_sdk.wire.audit_chain import Fault, Finding
from agent_sdk.wire.audit_stream import ChainSegment
from agent_sdk.wire.errors import WireError

MAX_WAITING: Final = 131_072
"""How many lines may wait for a checkpoint, all chains together; one batch of the broker has at most 16,385."""


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """How far a chain was read.

    Args:
        chain: its id.
        worker: who writes it.
        next_sequence: the place of the next line.
        prev: the hash of the last line that was read.
    """

    chain: str
    worker: str
    next_sequence: int
    prev: str


@dataclass(frozen=True, slots=True)
class VerifiedLine:
    """A line that the broker wrote.

    Args:
        event: what it says.
        raw: the line itself, without its line feed.
        at: its time, ms since the epoch.
    """

    event: AuditEvent
    raw: bytes
    at: int


@dataclass(frozen=True, slots=True)
class ChainFinding(Finding):
    """Something that is wrong, and in which chain.

    Args:
        chain: the chain's id; None where an entry states none.
    """

    chain: str | None = None


@dataclass(slots=True)
class Assembled:
    """What came of some lines.

    Args:
        lines: those that are covered by a signed checkpoint now, in the order of their chain, without checkpoints.
        findings: what was wrong.
        settled: the places whose lines have all been let through or refused.
        positions: the chains that went on, and how far.
    """

    lines: list[VerifiedLine] = field(default_factory=list)
    findings: list[ChainFinding] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    positions: dict[str, ChainPosition] = field(default_factory=dict)


@dataclass(slots=True)
class _Waiting:
    """A line that no checkpoint covers yet, and every place where it stands."""

    line: VerifiedLine
    digest: str
    places: list[str]


class ChainAssembler:
    """Assembles the chains of all workers, from wherever their lines come.

    Args:
        identity_public_key: the broker's Ed25519 identity, 32 bytes.
        positions: how far each chain was read before; what comes again is skipped.
        from_beginning: whether a chain that is met for the first time should begin with its first line.
    """

    def __init__(
        self, identity_public_key: bytes, positions: Iterable[ChainPosition] = (), *, from_beginning: bool = True
    ) -> None:
        self._identity = identity_public_key
        self._positions = {position.chain: position for position in positions}
        self._from_beginning = from_beginning
        self._waiting: dict[str, dict[str, _Waiting]] = {}
        self._count = 0
        self._open: Counter[str] = Counter()

    @property
    def positions(self) -> Mapping[str, ChainPosition]:
        """How far each chain was read, by its id."""
        return self._positions

    @property
    def waiting(self) -> int:
        """How many lines wait for a checkpoint."""
        return self._count

    def take(self, segment: ChainSegment, place: str) -> Assembled:
        """Take consecutive lines of a chain.

        Args:
            segment: as it was unpacked; nothing in it is believed.
            place: where it stands, for findings and `settled`.

        Returns:
            What is certain now.
        """
        into = Assembled()
        self._open[place] += 1  # held open until all of its lines were looked at
        position = self._positions.get(segment.chain)
        known = 0 if position is None else max(0, min(position.next_sequence - segment.first, len(segment.lines)))
        for sequence, raw in enumerate(segment.lines[known:], segment.first + known):
            self._take_line(segment.chain, sequence, raw, place, into)
        if self._count > MAX_WAITING:
            self._give_up(into)
        self._settle((place,), into)
        return into

    def forget_waiting(self) -> None:
        """Drop the lines that wait: nothing more will come from where they were read."""
        self._waiting.clear()
        self._open.clear()
        self._count = 0

    def _take_line(self, chain: str, sequence: int, raw: bytes, place: str, into: Assembled) -> None:
        try:
            event = decode_line(raw)
            line = VerifiedLine(event, raw, parse_time(event.timestamp))
        except (WireError, ValueError) as error:
            detail = str(error) if isinstance(error, WireError) else "audit line: not a time that there is"
            into.findings.append(ChainFinding(Fault.UNREADABLE, place, 0, sequence, detail, chain))
            return
        if (event.chain, event.sequence) != (chain, sequence):
            detail = f"a line of chain {event.chain} stands in an entry of chain {chain}"
            into.findings.append(ChainFinding(Fault.FOREIGN, place, 0, event.sequence, detail, chain))
            return
        if event.event == "checkpoint" and not verify_checkpoint(self._identity, event):
            detail = "claims to be a checkpoint, and was not signed with this broker's identity"
            into.findings.append(ChainFinding(Fault.FORGED_STREAM, place, 0, sequence, detail, chain))
            return
        digest = line_hash(raw)
        waiting = self._waiting.setdefault(chain, {})
        if digest not in waiting:
            waiting[digest] = _Waiting(line, digest, [])
            self._count += 1
        waiting[digest].places.append(place)
        self._open[place] += 1
        if event.event == "checkpoint":
            self._let_through(chain, digest, into)

    def _let_through(self, chain: str, checkpoint: str, into: Assembled) -> None:
        """Walk back from a signed checkpoint, then let all lines on the way through, oldest first."""
        path: list[_Waiting] = []
        cursor, of_chain = checkpoint, chain
        while (found := self._pop(of_chain, cursor)) is not None:
            path.append(found)
            event = found.line.event
            cursor = event.prev
            # a worker's next chain holds the hash of the last line of the one before, which so is signed as well
            of_chain = event.chain if event.sequence else self._home_of(cursor, event.worker)
        for item in reversed(path):
            self._accept(item, into)
        for each in {item.line.event.chain for item in path}:
            self._drop_overtaken(each, into)

    def _pop(self, chain: str, digest: str) -> _Waiting | None:
        found = self._waiting.get(chain, {}).pop(digest, None)
        if found is not None:
            self._count -= 1
        return found

    def _home_of(self, digest: str, worker: str) -> str:
        for chain, waiting in self._waiting.items():
            found = waiting.get(digest)
            if found is not None and found.line.event.worker == worker:
                return chain
        return ""

    def _accept(self, item: _Waiting, into: Assembled) -> None:
        event = item.line.event
        position = self._positions.get(event.chain)
        finding = self._misplaced(event, position, item.places[0])
        if finding is not None:
            into.findings.append(finding)
        if position is None or event.sequence >= position.next_sequence:
            reached = ChainPosition(event.chain, event.worker, event.sequence + 1, item.digest)
            self._positions[event.chain] = into.positions[event.chain] = reached
            if event.event != "checkpoint":
                into.lines.append(item.line)
        self._settle(item.places, into)

    def _misplaced(self, event: AuditEvent, position: ChainPosition | None, place: str) -> ChainFinding | None:
        """What is wrong with the place of a signed line."""
        if position is None:
            return self._unlinked(event, place)
        if event.sequence < position.next_sequence:
            detail = "another signed line stands at this sequence"
            return ChainFinding(Fault.INSERTED, place, 0, event.sequence, detail, event.chain)
        if event.sequence > position.next_sequence:
            return _missing(position.next_sequence, event, place)
        if event.prev != position.prev:
            detail = "this signed line does not hold the hash of the one before: the chain was written twice"
            return ChainFinding(Fault.CHANGED, place, 0, event.sequence, detail, event.chain)
        return None

    def _unlinked(self, event: AuditEvent, place: str) -> ChainFinding | None:
        """Check the first line of a chain that was not met before."""
        if event.sequence:
            return _missing(0, event, place) if self._from_beginning else None
        tips = {each.prev for each in self._positions.values() if each.worker == event.worker}
        if event.prev in tips or (event.prev == GENESIS and not tips):
            return None
        if not tips and not self._from_beginning:
            return None
        detail = f"chain {event.chain} of {event.worker} does not go on where the worker's chain before it ended"
        return ChainFinding(Fault.UNLINKED, place, 0, 0, detail, event.chain)

    def _drop_overtaken(self, chain: str, into: Assembled) -> None:
        """Refuse what waits at sequences that signed lines have taken."""
        waiting = self._waiting.get(chain)
        if not waiting:
            self._waiting.pop(chain, None)
            return
        reached = self._positions[chain].next_sequence
        for item in [item for item in waiting.values() if item.line.event.sequence < reached]:
            detail = "no signed checkpoint covers this line: it is not the broker's, or one behind it was changed"
            sequence = item.line.event.sequence
            into.findings.append(ChainFinding(Fault.INSERTED, item.places[0], 0, sequence, detail, chain))
            self._pop(chain, item.digest)
            self._settle(item.places, into)

    def _give_up(self, into: Assembled) -> None:
        """Refuse the longest row of lines that wait in vain, so that nobody can fill the memory."""
        chain, waiting = max(self._waiting.items(), key=lambda pair: len(pair[1]))
        items = list(waiting.values())
        detail = f"{len(items)} lines of chain {chain} waited for a signed checkpoint in vain"
        first = items[0]
        sequence = first.line.event.sequence
        into.findings.append(ChainFinding(Fault.INSERTED, first.places[0], 0, sequence, detail, chain))
        for item in items:
            self._pop(chain, item.digest)
            self._settle(item.places, into)
        del self._waiting[chain]

    def _settle(self, places: Sequence[str], into: Assembled) -> None:
        for place in places:
            self._open[place] -= 1
            if not self._open[place]:
                del self._open[place]
                into.settled.append(place)


def _missing(first: int, event: AuditEvent, place: str) -> ChainFinding:
    last = event.sequence - 1
    count = last - first + 1
    lines = "1 line is missing" if count == 1 else f"{count} lines are missing"
    detail = f"{lines} before this one of chain {event.chain}: {first} to {last}"
    return ChainFinding(Fault.REMOVED, place, 0, event.sequence, detail, event.chain)
