"""What happened lately, and what happens now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, func, literal, select, tuple_

from broker_worker.dashboard.reads.events import shown_columns
from broker_worker.dashboard.reads.keyset import Cursor, Page, cut
from broker_worker.ledger.schema import EVENTS

PAGE: Final = 100
"""How many events a page shows."""
STEP: Final = 200
"""How many new events are read at once."""
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "approvals": ("approval_requested", "approval_decided", "approval_settled", "decision_refused", "notified"),
    "orders": ("revoked", "reinstated", "lease_ended"),
    "system": (
        "worker_started",
        "worker_stopped",
        "config_loaded",
        "config_rejected",
        "queue_distrusted",
        "unauthenticated",
        "job_refused",
    ),
}
"""What `outcome` of a filter may name besides `granted` and `refused`, and the events that it means."""
IS_ANSWER: Final[Mapping[str, ColumnElement[bool]]] = {
    "granted": and_(EVENTS.c.event == "access", func.coalesce(EVENTS.c.action, "").not_in(("renew", "release"))),
    "refused": and_(
        EVENTS.c.event.in_(("access", "request_refused")), func.coalesce(EVENTS.c.code, "") != "approval_pending"
    ),
}
"""Which events of an outcome are what an agent was given or refused, and not what people decided or have yet to."""
_SHOWN = shown_columns()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted. Times are ms since the epoch; what is None is not filtered by.

    Args:
        agent: only this agent's.
        run: only this run's; `agent` is then set too.
        secret: only this secret's.
        outcome: `granted`, `refused`, or one of `KINDS`.
        since: not before.
        until: before.
    """

    agent: str | None = None
    run: str | None = None
    secret: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None

    def on(self, query: Select[Any]) -> Select[Any]:
        """The same query, of these events only."""
        for column, wanted in ((EVENTS.c.agent_id, self.agent), (EVENTS.c.run_id, self.run)):
            query = query if wanted is None else query.where(column == wanted)
        if self.secret is not None:
            query = query.where(EVENTS.c.secret_name == self.secret)
        if self.outcome is not None:
            kinds = KINDS.get(self.outcome)
            if kinds is None:
                query = query.where(EVENTS.c.outcome == self.outcome, IS_ANSWER[self.outcome])
            else:
                query = query.where(EVENTS.c.event.in_(kinds))
        if self.since is not None:
            query = query.where(EVENTS.c.at >= self.since)
        return query if self.until is None else query.where(EVENTS.c.at < self.until)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader came: the position of the last event that it knows, and that event's id, which proves it.

    A ledger that was made anew gives other positions; then the id there is another, and the reader begins again.
    """

    position: int = 0
    event_id: str = ""

    def __str__(self) -> str:
        return f"{self.position}.{self.event_id}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """Read what `str` wrote; None if it is not that."""
        position, dot, event_id = text.partition(".")
        if not dot or not position.isascii() or not position.isdigit() or len(position) > 15 or len(event_id) > 64:
            return None
        return cls(int(position), event_id)


def latest_place(connection: Connection) -> Place:
    """Where the ledger ends now."""
    query = select(EVENTS.c.position, EVENTS.c.event_id).order_by(EVENTS.c.position.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return Place() if row is None else Place(row.position, row.event_id)


def is_still_true(connection: Connection, place: Place) -> bool:
    """Whether the ledger still has that event at that position."""
    if place.position == 0:
        return True
    return connection.scalar(select(EVENTS.c.event_id).where(EVENTS.c.position == place.position)) == place.event_id


def recent(
    connection: Connection, wanted: Filter, up_to: Place, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[RowMapping]:
    """Events, the newest first.

    Args:
        connection: to the ledger.
        wanted: which.
        up_to: none that was projected later: those come by `following`.
        after: the last row of the page before.
        limit: how many.
    """
    query = wanted.on(select(*_SHOWN)).where(EVENTS.c.position <= up_to.position)
    query = query.order_by(EVENTS.c.at.desc(), EVENTS.c.position.desc()).limit(limit + 1)
    if after is not None and after.position is not None:
        place = tuple_(literal(after.number), literal(after.position))
        query = query.where(EVENTS.c.at <= after.number, tuple_(EVENTS.c.at, EVENTS.c.position) < place)
    rows = connection.execute(query).mappings().all()
    return cut(rows, limit, lambda row: Cursor(row["at"], str(row["position"])))


def following(
    connection: Connection, wanted: Filter, after: Place, limit: int = STEP
) -> tuple[Sequence[RowMapping], Place]:
    """Events that were projected since, in that order.

    Args:
        connection: to the ledger.
        wanted: which.
        after: how far the reader came.
        limit: how many at most.

    Returns:
        The events, and how far the reader has come with them.
    """
    end = latest_place(connection)
    if end.position <= after.position:
        return (), after
    query = wanted.on(select(*_SHOWN)).where(EVENTS.c.position > after.position, EVENTS.c.position <= end.position)
    rows = connection.execute(query.order_by(EVENTS.c.position).limit(limit)).mappings().all()
    return rows, Place(rows[-1]["position"], rows[-1]["event_id"]) if len(rows) == limit else end


def outcomes_since(connection: Connection, since: int) -> dict[str, int]:
    """How many names were `granted`, and names and whole requests `refused`, since a time, ms since the epoch."""
    found: dict[str, int] = {}
    for outcome, is_answer in IS_ANSWER.items():
        query = select(func.count()).where(EVENTS.c.outcome == outcome, EVENTS.c.at >= since, is_answer)
        found[outcome] = int(connection.scalar(query) or 0)
    return found
