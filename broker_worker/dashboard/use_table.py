"""Lists of secrets and of agents by how they were used: which rows, in which order, with which small chart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from sqlalchemy import Connection

from broker_worker.core.policy import Origin
from broker_worker.dashboard.charts import spark
from broker_worker.dashboard.reads.keyset import PAGE, Cursor, Page, cut
from broker_worker.dashboard.reads.leases import count_open
from broker_worker.dashboard.reads.usage import Count, Side, Span, ever_used, last_granted, series, totals

ORDERS: Final = (("", "most used"), ("refused", "most refused"), ("name", "name"))
_NOTHING: Final = Count()


@dataclass(frozen=True, slots=True)
class UseRow:
    """A secret or an agent in a list.

    Args:
        name: which.
        count: how often it was given and refused in the span.
        drawing: the same over time.
        last_at: when anything was last given, ms since the epoch; None if never.
        held: how many leases are open now.
        origin: where the operator's files name it; None if they do not.
    """

    name: str
    count: Count
    drawing: Markup
    last_at: int | None
    held: int
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Use:
    """All secrets, or all agents, and how they were used.

    Args:
        by: which of the two.
        span: when.
        named: what the operator's files name, and where.
        counts: how often each was given and refused in the span.
        held: how many leases of each are open now.
        names: all there are, in order.
    """

    by: Side
    span: Span
    named: Mapping[str, Origin]
    counts: Mapping[str, Count]
    held: Mapping[str, int]
    names: Sequence[str]

    @classmethod
    def read(cls, connection: Connection, by: Side, named: Mapping[str, Origin], span: Span, now: int) -> "Use":
        """Read how everything was used.

        Args:
            connection: to the ledger.
            by: secrets or agents.
            named: what the operator's files name.
            span: when.
            now: the time, ms since the epoch.
        """
        names = sorted({*named, *ever_used(connection, by)})
        return cls(by, span, named, totals(connection, by, span), count_open(connection, now, by), names)

    def count_of(self, name: str) -> Count:
        """How often one was given and refused in the span."""
        return self.counts.get(name, _NOTHING)

    @property
    def total(self) -> Count:
        """All together."""
        return sum(self.counts.values(), _NOTHING)

    @property
    def never_asked(self) -> list[str]:
        """What the operator's files name and nobody was given in the span."""
        return [name for name in self.named if not self.count_of(name).granted]

    def narrowed(self, show: str) -> Iterable[str]:
        """The names that a filter lets through: `used`, `unused`, `refused`, `unknown`; all for anything else."""
        match show:
            case "used":
                return (name for name in self.names if self.count_of(name).granted)
            case "unused":
                return self.never_asked
            case "refused":
                return (name for name in self.names if self.count_of(name).refused)
            case "unknown":
                return (name for name in self.names if name not in self.named)
            case _:
                return self.names

    def ordered(self, names: Iterable[str], order: str, after: Cursor | None, limit: int = PAGE) -> Page[str]:
        """One page of these names, in one of `ORDERS`."""

        def rank(name: str) -> int:
            count = self.count_of(name)
            return 0 if order == "name" else count.refused if order == "refused" else count.total

        places = sorted((-rank(name), name) for name in names)
        if after is not None:
            places = [place for place in places if place > (-after.number, after.key)]
        return cut([name for _, name in places[: limit + 1]], limit, lambda name: Cursor(rank(name), name))

    def rows(self, connection: Connection, names: Sequence[str]) -> list[UseRow]:
        """The rows of one page."""
        drawn = series(connection, self.by, names, self.span)
        last = last_granted(connection, self.by, names)
        return [
            UseRow(
                name,
                self.count_of(name),
                spark(drawn[name]),
                last.get(name),
                self.held.get(name, 0),
                self.named.get(name),
            )
            for name in names
        ]
