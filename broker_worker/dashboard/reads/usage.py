"""Use over time, per secret and per agent: how often each was given and refused, and when last."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, String, column, func, literal_column, select, values

from broker_worker.dashboard.reads.live import IS_ANSWER
from broker_worker.ledger.schema import EVENTS, RUNS, USAGE

HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * HOUR_MS
Side = Literal["agent_id", "secret_name"]
"""By which of its two names usage is counted."""
MOST_NAMES: Final = 10_000
"""How many names a list is made of at most."""
_REFUSED: Final[ColumnElement[str]] = literal_column("'refused'")
"""Written out, not bound: an index of refusals alone serves only queries that say so."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time that charts show, in equal steps of whole hours.

    Args:
        label: what links call it: `24h`, `7d`, …
        step_ms: length of a step, ms.
        start: where the first step begins, ms since the epoch.
        steps: how many there are; the last one holds the present.
    """

    label: str
    step_ms: int
    start: int
    steps: int

    @property
    def end(self) -> int:
        """Where the last step ends, ms since the epoch."""
        return self.start + self.steps * self.step_ms


_SPANS: Final = {"24h": (HOUR_MS, 24), "7d": (6 * HOUR_MS, 28), "30d": (_DAY_MS, 30), "90d": (3 * _DAY_MS, 30)}
SPAN_LABELS: Final = tuple(_SPANS)


def span_of(label: str | None, now: int) -> Span:
    """The span of that label that ends now; seven days for a label that there is not."""
    label = label if label in _SPANS else "7d"
    step, steps = _SPANS[label]
    return Span(label, step, now - now % step - (steps - 1) * step, steps)


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was given and refused."""

    granted: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        """How often it was asked for."""
        return self.granted + self.refused

    def __add__(self, other: "Count") -> "Count":
        return Count(self.granted + other.granted, self.refused + other.refused)


_NOTHING: Final = Count()
Series = tuple[Count, ...]
"""One count a step of a span."""


def _step(span: Span) -> ColumnElement[int]:
    return ((USAGE.c.hour - span.start) // span.step_ms).label("step")


def _within(span: Span) -> ColumnElement[bool]:
    return USAGE.c.hour.between(span.start, span.end - 1)


_SUMS = (func.sum(USAGE.c.granted), func.sum(USAGE.c.refused))


def totals(connection: Connection, by: Side, span: Span) -> dict[str, Count]:
    """How often each agent or secret was given and refused in a span; whoever was not used is not there."""
    name = USAGE.c[by]
    query = select(name, *_SUMS).where(_within(span)).group_by(name)
    return {each: Count(granted, refused) for each, granted, refused in connection.execute(query)}


def series(connection: Connection, by: Side, names: Iterable[str], span: Span) -> dict[str, Series]:
    """How often each of these agents or secrets was given and refused in each step of a span."""
    wanted = list(names)
    side, step = USAGE.c[by], _step(span)
    query = select(side, step, *_SUMS).where(side.in_(wanted), _within(span)).group_by(side, step)
    counts = {name: [_NOTHING] * span.steps for name in wanted}
    for name, index, granted, refused in connection.execute(query):
        counts[name][index] = Count(granted, refused)
    return {name: tuple(row) for name, row in counts.items()}


def partners(connection: Connection, of: Side, name: str, span: Span) -> dict[str, Count]:
    """For a secret the agents that asked for it in a span, for an agent the secrets, the busiest first.

    Args:
        connection: to the ledger.
        of: which of the two `name` is.
        name: the secret or the agent.
        span: when.
    """
    other = USAGE.c.agent_id if of == "secret_name" else USAGE.c.secret_name
    query = select(other, *_SUMS).where(USAGE.c[of] == name, _within(span)).group_by(other)
    found = {each: Count(granted, refused) for each, granted, refused in connection.execute(query)}
    return dict(sorted(found.items(), key=lambda item: (-item[1].total, item[0])))


def ever_used(connection: Connection, by: Side) -> list[str]:
    """Every agent or secret that was ever asked for or asked, in order; at most `MOST_NAMES`.

    One look into an index a name: the database is not made to read what was used often as often.
    """
    side = USAGE.c[by]
    names = select(func.min(side).label("name")).cte("names", recursive=True)
    later = select(func.min(side)).where(side > names.c.name).scalar_subquery()
    names = names.union_all(select(later).where(names.c.name.is_not(None)))
    query = select(names.c.name).where(names.c.name.is_not(None)).limit(MOST_NAMES)
    return [name for (name,) in connection.execute(query)]


def last_granted(connection: Connection, by: Side, names: Iterable[str]) -> dict[str, int]:
    """When each of these agents or secrets was last given anything, ms since the epoch; a name never used is missing.

    The last hour comes from `usage`, so that only this hour's events are looked at.
    """
    wanted = [(name,) for name in names]
    if not wanted:
        return {}
    asked = values(column("name", String), name="asked").data(wanted).cte("asked")
    last = select(USAGE.c.hour).where(USAGE.c[by] == asked.c.name, USAGE.c.granted > 0)
    hour = last.order_by(USAGE.c.hour.desc()).limit(1).correlate(asked).scalar_subquery()
    hours = select(asked.c.name, hour.label("hour")).cte("hours").prefix_with("MATERIALIZED")
    is_granted = func.coalesce(EVENTS.c.outcome, "") == "granted"  # so that no index of outcomes is preferred
    at = select(func.max(EVENTS.c.at)).where(
        EVENTS.c[by] == hours.c.name, EVENTS.c.at.between(hours.c.hour, hours.c.hour + HOUR_MS - 1), is_granted
    )
    query = select(hours.c.name, func.coalesce(at.correlate(hours).scalar_subquery(), hours.c.hour))
    return {row[0]: row[1] for row in connection.execute(query.where(hours.c.hour.is_not(None)))}


def recent_refusals(connection: Connection, by: Side, name: str, limit: int) -> list[RowMapping]:
    """The latest refusals of a secret or an agent, newest first."""
    shown = [each for each in EVENTS.columns if each.name != "line"]
    query = select(*shown).where(EVENTS.c[by] == name, EVENTS.c.outcome == _REFUSED, IS_ANSWER["refused"])
    return list(connection.execute(query.order_by(EVENTS.c.at.desc()).limit(limit)).mappings())


def runs_since(connection: Connection, since: int) -> Mapping[str, int]:
    """How many runs of each agent were active since a time, ms since the epoch."""
    active = select(RUNS.c.agent_id).where(RUNS.c.last_at >= since).cte("active").prefix_with("MATERIALIZED")
    query = select(active.c.agent_id, func.count()).group_by(active.c.agent_id)
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}
