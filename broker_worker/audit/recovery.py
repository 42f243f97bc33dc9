"""Where a worker's audit ends, found when it is opened: after a clean stop, after a crash, after someone changed it."""

from dataclasses import dataclass
from pathlib import Path

from agent_sdk.wire.audit import GENESIS, AuditEvent, decode_line, line_hash
from agent_sdk.wire.audit_chain import Anchor, ChainVerifier, Finding
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import HEAD_SUFFIX, ChainFile, Position, list_files
from broker_worker.audit.head import read_head
from broker_worker.audit.line_search import (
    find_backward,
    hash_of_last_line,
    line_at,
    lines_between,
    size_of_whole_lines,
)

_CHECKPOINT = b'\n{"v":1,"event":"checkpoint"'
_Head = tuple[AuditEvent, bytes]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was out of the ordinary when a worker's audit was opened.

    Args:
        torn_bytes: bytes of a line that a crash left unfinished; they are cut off.
        unsigned_lines: whole lines without a checkpoint; the next one covers them.
        broken: why the chain is not continued but followed by a new one; empty if it is continued.
        restored_lines: lines that a crash left in the write-ahead file only.
    """

    torn_bytes: int = 0
    unsigned_lines: int = 0
    broken: str = ""
    restored_lines: int = 0

    def __str__(self) -> str:
        parts = []
        if self.broken:
            parts.append(f"new chain: {self.broken}")
        if self.restored_lines:
            parts.append(f"restored {self.restored_lines} lines from the write-ahead file")
        if self.torn_bytes:
            parts.append(f"recovered {self.torn_bytes} torn bytes")
        if self.unsigned_lines:
            parts.append(f"{self.unsigned_lines} lines without checkpoint")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a worker's audit.

    Args:
        end: where the next line belongs; None if a new chain is due.
        chain: the newest chain; None if there is none.
        prev: what the next line's `prev` must be, in the same chain or in the next.
        recovery: what was out of the ordinary.
    """

    end: Position | None
    chain: str | None
    prev: str
    recovery: Recovery


def find_tail(folder: Path, worker: str, identity_public_key: bytes) -> Tail:
    """Find where a worker's audit ends, and check its last lines from the last checkpoint on.

    Files in which not even one line was finished are removed: they hold nothing that was ever released upon.

    Raises:
        OSError: if the files cannot be read.
    """
    files = list_files(folder, worker)
    torn = 0
    while files and not size_of_whole_lines(files[-1].path):
        torn += files[-1].path.stat().st_size
        files.pop().path.unlink()
    head = read_head(folder / f"{worker}{HEAD_SUFFIX}", identity_public_key)
    if not files:
        if head is None:
            return Tail(None, None, GENESIS, Recovery(torn))
        event, line = head
        return Tail(None, event.chain, line_hash(line), Recovery(torn, broken=f"chain {event.chain} is missing"))
    return _check_tail(files, identity_public_key, head, torn)


def _check_tail(files: list[ChainFile], identity_public_key: bytes, head: _Head | None, torn: int) -> Tail:
    active = files[-1]
    if head is not None and head[0].chain > active.chain:
        broken = f"chain {head[0].chain} is missing"
        return Tail(None, head[0].chain, line_hash(head[1]), Recovery(torn, broken=broken))
    anchors = []
    if head is not None and head[0].chain == active.chain:
        anchors.append(Anchor(head[0].sequence, line_hash(head[1]), "the head"))
    size = size_of_whole_lines(active.path)
    torn += active.path.stat().st_size - size
    offset, sequence, prev = _window(files, size)
    verifier = ChainVerifier(
        identity_public_key, active.chain, active.worker, sequence=sequence, prev=prev, anchors=anchors
    )
    findings: list[Finding] = []
    last = b""
    for last in lines_between(active.path, offset, size):
        findings += verifier.feed(last, active.path.name, 0)
    findings += verifier.finish()
    broken = next((finding.detail for finding in findings if not finding.is_warning), "")
    recovery = Recovery(torn, verifier.unsigned, broken)
    if not broken:
        return Tail(Position(active, size, verifier.next_sequence), active.chain, verifier.prev or GENESIS, recovery)
    cut = anchors and anchors[0].sequence >= verifier.next_sequence
    return Tail(None, active.chain, anchors[0].hash if cut else line_hash(last), recovery)


def _window(files: list[ChainFile], size: int) -> tuple[int, int, str | None]:
    """Where to begin reading the newest file: offset, sequence, and the `prev` of the line there if it is known."""
    active = files[-1]
    offset = find_backward(active.path, _CHECKPOINT, size) + 1
    if offset:
        try:
            return offset, decode_line(line_at(active.path, offset, size)).sequence, None
        except WireError:
            pass  # the verifier will say so, from the beginning on
    before = files[-2] if len(files) > 1 and files[-2].chain == active.chain else None
    return 0, active.first, None if before is None else hash_of_last_line(before.path)
