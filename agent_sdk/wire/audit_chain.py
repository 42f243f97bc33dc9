"""Verifies a chain of audit lines: fed line by line, it says what is wrong and where. It does no I/O.

What each line must be: an audit event in canonical form, of this chain and worker, with the next sequence, holding
the hash of the line before; a checkpoint besides signed with the broker's identity. A verifier keeps the last line's
hash and position only, so a log of any length needs the same memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent_sdk.wire.audit import AuditEvent, decode_line, line_hash, verify_checkpoint
from agent_sdk.wire.errors import WireError

_MAX_GAPS = 1024
_NOWHERE = ("", 0)


class Fault(StrEnum):
    """What can be wrong with an audit. Values are stable."""

    UNREADABLE = "unreadable"
    """A line is no audit event in canonical form."""
    CHANGED = "changed"
    """A line is not the one whose hash the next line or a signed checkpoint holds."""
    REMOVED = "removed"
    """Sequences are missing before a line."""
    INSERTED = "inserted"
    """A sequence occurs again."""
    REORDERED = "reordered"
    """A line stands after one that follows it."""
    FOREIGN = "foreign"
    """A line belongs to another chain or worker."""
    FORGED = "forged"
    """A checkpoint is not signed with the broker's identity."""
    CUT = "cut"
    """A signed checkpoint is known that lies beyond the end of the chain."""
    UNSIGNED = "unsigned"
    """Lines follow the last checkpoint; normal only while a batch is written or after a crash."""
    TORN = "torn"
    """The last line of a chain has no end; normal only while a batch is written or after a crash."""
    ABANDONED = "abandoned"
    """Lines that could not be made durable, so nothing was released on them; the next chain goes on before them."""
    UNLINKED = "unlinked"
    """A chain begins with the hash of a line that the chain before does not have."""
    MISSING_FILE = "missing_file"
    """A file, or a whole chain, is not there."""
    UNKNOWN_FILE = "unknown_file"
    """A file that is no part of an audit."""
    PERMISSIONS = "permissions"
    """Others may read or write, or a name is not a plain file."""
    NO_HEAD = "no_head"
    """The worker's last signed checkpoint, kept beside the chain, is missing or unreadable."""
    FORGED_STREAM = "forged_stream"
    """A line of the stream claims to be a checkpoint and is not signed with the broker's identity."""
    UNKNOWN_ENTRY = "unknown_entry"
    """An entry of the stream is not what a broker writes."""


_WARNINGS = frozenset({Fault.UNSIGNED, Fault.TORN, Fault.ABANDONED, Fault.UNKNOWN_FILE, Fault.UNKNOWN_ENTRY})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and where.

    Args:
        fault: what.
        file: the file's name.
        line: the line in it, from 1; 0 if the whole file is meant.
        sequence: the position in the chain, if it is known.
        detail: for people; may repeat text of the log, so show it without control characters.
    """

    fault: Fault
    file: str
    line: int
    sequence: int | None
    detail: str

    @property
    def is_warning(self) -> bool:
        """Whether a crash of an honest broker can leave this behind."""
        return self.fault in _WARNINGS


@dataclass(frozen=True, slots=True)
class Anchor:
    """A line that must be in the chain, known from elsewhere: a verified checkpoint.

    Args:
        sequence: its position.
        hash: its SHA-256, hexadecimal.
        source: where it is known from, for people.
    """

    sequence: int
    hash: str
    source: str


class ChainVerifier:
    """Verifies one chain.

    Args:
        identity_public_key: the broker's Ed25519 identity, 32 bytes.
        chain: the chain's id.
        worker: the worker that writes it.
        sequence: the position of the first line that will be fed.
        prev: what that line's `prev` must be; None if that is not known.
        anchors: checkpoints that the chain must hold, from the first line on.
    """

    def __init__(
        self,
        identity_public_key: bytes,
        chain: str,
        worker: str,
        *,
        sequence: int = 0,
        prev: str | None = None,
        anchors: Iterable[Anchor] = (),
    ) -> None:
        self._identity = identity_public_key
        self._chain = chain
        self._worker = worker
        self._next = sequence
        self._prev = prev
        self._anchors = sorted(anchors, key=lambda anchor: anchor.sequence, reverse=True)
        self._gaps: list[range] = []
        self._damaged = 0
        self._last = _NOWHERE
        self._unsigned = 0
        self._unsigned_at = _NOWHERE
        self._checkpoints = 0

    @property
    def next_sequence(self) -> int:
        """The position that the next line must have."""
        return self._next + self._damaged

    @property
    def prev(self) -> str | None:
        """The hash of the last line in its place; None if there was none."""
        return self._prev

    @property
    def unsigned(self) -> int:
        """How many lines follow the last valid checkpoint."""
        return self._unsigned

    @property
    def checkpoints(self) -> int:
        """How many valid checkpoints there were."""
        return self._checkpoints

    def skip_to(self, sequence: int) -> None:
        """Go on at a later position, after a gap that was reported already."""
        if sequence > self._next:
            self._note_gap(sequence)
            self._next, self._prev = sequence, None
        self._damaged = 0
        self._unsigned = 0

    def feed(self, line: bytes, file: str, number: int) -> Sequence[Finding]:
        """Verify the next line.

        Args:
            line: without its line feed.
            file: where it stands, for findings.
            number: its number in that file, from 1.

        Returns:
            What is wrong with it, with the line before, or between the two; usually nothing.
        """
        try:
            event = decode_line(line)
        except WireError as error:
            self._damaged += 1
            return [Finding(Fault.UNREADABLE, file, number, None, str(error))]
        sequence = event.sequence
        if event.chain != self._chain or event.worker != self._worker:
            self._damaged += 1
            detail = f"belongs to chain {event.chain} of {event.worker}"
            return [Finding(Fault.FOREIGN, file, number, sequence, detail)]
        if sequence < self._next:
            return [self._out_of_order(sequence, file, number)]
        findings = self._check_link(event, file, number)
        digest = line_hash(line)
        findings += self._check_anchors(sequence, digest, file, number)
        findings += self._check_signature(event, file, number)
        self._next, self._prev, self._damaged, self._last = sequence + 1, digest, 0, (file, number)
        return findings

    def finish(self) -> Sequence[Finding]:
        """Say what only the end shows: a cut tail, lines without a checkpoint."""
        file, number = self._last
        findings = [
            Finding(
                Fault.CUT,
                file,
                number,
                self._next - 1 if self._next else None,
                f"the chain ends here, but {anchor.source} holds its signed checkpoint {anchor.sequence}",
            )
            for anchor in self._anchors
            if anchor.sequence >= self.next_sequence
        ]
        if self._unsigned:
            file, number = self._unsigned_at
            detail = f"{self._unsigned} lines from here on have no checkpoint"
            findings.append(Finding(Fault.UNSIGNED, file, number, self._next - self._unsigned, detail))
        return findings

    def _note_gap(self, sequence: int) -> None:
        if len(self._gaps) < _MAX_GAPS:
            self._gaps.append(range(self._next, sequence))

    def _out_of_order(self, sequence: int, file: str, number: int) -> Finding:
        if any(sequence in gap for gap in self._gaps):
            return Finding(Fault.REORDERED, file, number, sequence, f"stands after {self._next - 1}")
        return Finding(Fault.INSERTED, file, number, sequence, "this sequence occurs again")

    def _check_link(self, event: AuditEvent, file: str, number: int) -> list[Finding]:
        """Compare position and `prev` with what the lines before demand (docs/protocol.md, "Audit")."""
        ahead = event.sequence - self._next
        if ahead > self._damaged:
            first, last = self._next + self._damaged, event.sequence - 1
            self._note_gap(event.sequence)
            missing = last - first + 1
            lines = "1 line is missing" if missing == 1 else f"{missing} lines are missing"
            detail = f"{lines} before this one: {first} to {last}"
            return [Finding(Fault.REMOVED, file, number, event.sequence, detail)]
        if ahead or self._prev is None or event.prev == self._prev:
            return []
        if self._last == _NOWHERE:
            detail = "the first line does not hold the hash that it should begin with"
            return [Finding(Fault.CHANGED, file, number, event.sequence, detail)]
        detail = f"this line does not have the hash that {file}:{number} holds: one of the two was changed"
        return [Finding(Fault.CHANGED, *self._last, event.sequence - 1, detail)]

    def _check_anchors(self, sequence: int, digest: str, file: str, number: int) -> list[Finding]:
        findings = []
        while self._anchors and self._anchors[-1].sequence <= sequence:
            anchor = self._anchors.pop()
            if anchor.sequence == sequence and anchor.hash != digest:
                detail = f"differs from the signed checkpoint that {anchor.source} holds"
                findings.append(Finding(Fault.CHANGED, file, number, sequence, detail))
        return findings

    def _check_signature(self, event: AuditEvent, file: str, number: int) -> list[Finding]:
        if event.event == "checkpoint" and verify_checkpoint(self._identity, event):
            self._unsigned = 0
            self._checkpoints += 1
            return []
        if not self._unsigned:
            self._unsigned_at = (file, number)
        self._unsigned += 1
        if event.event == "checkpoint":
            detail = "this checkpoint was not signed with this broker's identity"
            return [Finding(Fault.FORGED, file, number, event.sequence, detail)]
        return []
