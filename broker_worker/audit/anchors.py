"""Signed checkpoints that are known from outside a chain's files, and must be in them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditEvent, decode_line, line_hash, verify_checkpoint
from agent_sdk.wire.audit_chain import Anchor, Fault, Finding
from agent_sdk.wire.errors import WireError
from broker_worker.audit.head import read_head
from broker_worker.audit.report import Report

StreamEntry = tuple[str, bytes | None]
"""A line of the stream behind the event id that is stated for it, or the id of an entry that has no lines and None."""


class Anchors:
    """The newest known checkpoint of each chain and source.

    Args:
        identity_public_key: the broker's Ed25519 identity, 32 bytes; what it did not sign is no anchor.
    """

    def __init__(self, identity_public_key: bytes) -> None:
        self._identity = identity_public_key
        self._known: dict[tuple[str, str], dict[str, Anchor]] = {}

    @property
    def workers(self) -> set[str]:
        """The workers of which a checkpoint is known."""
        return {worker for worker, _ in self._known}

    def chains_of(self, worker: str) -> Mapping[str, Sequence[Anchor]]:
        """Per chain of a worker, the checkpoints that it must hold."""
        return {
            chain: list(anchors.values()) for (owner, chain), anchors in sorted(self._known.items()) if owner == worker
        }

    def take_head(self, worker: str, path: Path) -> bool:
        """Take a worker's head; says whether it is one that the broker signed.

        Raises:
            OSError: if it cannot be read.
        """
        head = read_head(path, self._identity)
        if head is None or head[0].worker != worker:
            return False
        self._take(*head, "the head")
        return True

    def take_stream(self, entries: Iterable[StreamEntry], report: Report) -> None:
        """Take the checkpoints on the stream; what the broker did not sign or write is reported."""
        unknown, first = 0, ""
        for stated, line in entries:
            if line is None:
                unknown, first = unknown + 1, first or stated
            elif b'"event":"checkpoint"' in line[:64]:
                self._take_stated(stated, line, report)
        if unknown:
            # one finding for all, since whoever floods the stream could crowd out what is wrong with the files
            detail = f"entries that no broker wrote: {unknown}, the first of them {first}"
            report.add(Finding(Fault.UNKNOWN_ENTRY, keynames.AUDIT, 0, None, detail))

    def _take_stated(self, stated: str, line: bytes, report: Report) -> None:
        try:
            event = decode_line(line)
        except WireError as error:
            report.add(Finding(Fault.FORGED_STREAM, keynames.AUDIT, 0, None, f"line {stated[:40]}: {error}"))
            return
        if event.event_id != stated or not verify_checkpoint(self._identity, event):
            detail = f"line {stated[:40]} is not signed with this broker's identity"
            report.add(Finding(Fault.FORGED_STREAM, keynames.AUDIT, 0, event.sequence, detail))
            return
        self._take(event, line, "the stream")

    def _take(self, event: AuditEvent, line: bytes, source: str) -> None:
        known = self._known.setdefault((event.worker, event.chain), {})
        if source not in known or known[source].sequence < event.sequence:
            known[source] = Anchor(event.sequence, line_hash(line), source)
