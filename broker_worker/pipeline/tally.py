"""Refusals that anybody can cause without end are counted, not written line by line: no flood fills the disk."""

from dataclasses import dataclass

from msgspec.structs import replace

from agent_sdk.wire.audit import AuditRecord

WINDOW_MS = 10_000
"""How long repeats of one kind are counted before one line says how many there were, ms."""


@dataclass(slots=True)
class _Counted:
    since: int
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
            self._counts[kind] = _Counted(now, record)
            return True
        counted.last = record
        counted.repeats += 1
        return False

    def due(self, now: int, *, everything: bool = False) -> list[AuditRecord]:
        """One record, the last with its count, for each kind whose window is over and that came again."""
        over = [kind for kind, c in self._counts.items() if everything or now - c.since >= WINDOW_MS]
        ended = [self._counts.pop(kind) for kind in over]
        return [replace(each.last, count=each.repeats) for each in ended if each.repeats]
