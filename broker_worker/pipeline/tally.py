"""Refusals that anybody can cause without end are counted, not written line by line: no flood fills the disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent_sdk.wire.audit import AuditRecord

WINDOW_MS = 10_000
"""How long repeats of one kind are counted before one line says how many there were, ms."""


@dataclass(slots=True)
class _Counted:
    since: int
    first: AuditRecord
    last: AuditRecord
    repeats: int = 0


class Tally:
    """Lets the first refusal of a kind through at once, then says how often it came again."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], _Counted] = {}

    def is_first(self, kind: tuple[str, ...], record: AuditRecord, now: int) -> bool:
        """Count one refusal; True if it is the first of its kind and must be recorded now.

        Args:
            kind: what makes two refusals the same: who caused them and why.
            record: what the audit would be told.
            now: the time, ms since the epoch.
        """
        counted = self._counts.get(kind)
        if counted is None:
            self._counts[kind] = _Counted(now, record, record)
            return True
        counted.last = record
        counted.repeats += 1
        return False

    def not_recorded(self, records: Sequence[AuditRecord]) -> None:
        """Count those of `records` that were the first of their kind with the repeats: the audit did not take them."""
        lost = {id(record) for record in records}
        for counted in self._counts.values():
            if id(counted.first) in lost:
                counted.repeats += 1

    def record_due(
        self, append: Callable[[Sequence[AuditRecord]], None], now: int, *, everything: bool = False
    ) -> None:
        """Record how often each kind came again whose window is over: its last record, with the count.

        Args:
            append: makes records durable; if it raises, the counts are kept and due again.
            now: the time, ms since the epoch.
            everything: whether to end every window now.
        """
        # a window that begins in the future is over too: the clock was set back
        over = {kind: c for kind, c in self._counts.items() if everything or not 0 <= now - c.since < WINDOW_MS}
        due = [replace(counted.last, count=counted.repeats) for counted in over.values() if counted.repeats]
        if due:
            append(due)
        for kind in over:
            del self._counts[kind]
