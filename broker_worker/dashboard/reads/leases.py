"""Leases: who holds what, until when, and who held it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, Connection, RowMapping, Select, func, literal, select, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.expression import Tuple

from broker_worker.dashboard.reads.keyset import PAGE, Cursor, Page, cut
from broker_worker.ledger.schema import LEASES


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Which leases.

    Args:
        agent: only this agent's.
        run: only this run's; with `agent`.
        secret: only of this secret.
        version: only of this version of it.
    """

    agent: str | None = None
    run: str | None = None
    secret: str | None = None
    version: str | None = None

    def conditions(self, columns: ReadOnlyColumnCollection[str, Any]) -> list[ColumnElement[bool]]:
        """What must hold of a lease with these columns."""
        wanted = {"agent_id": self.agent, "run_id": self.run, "secret_name": self.secret, "version": self.version}
        return [columns[name] == value for name, value in wanted.items() if value is not None]


def open_leases(
    connection: Connection, wanted: LeaseFilter, now: int, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[RowMapping]:
    """What is held now, what expires next first.

    Args:
        connection: to the ledger.
        wanted: which.
        now: the time, ms since the epoch.
        after: the last row of the page before.
        limit: how many.
    """
    held = _held(now)
    query = select(held).where(*wanted.conditions(held.c)).order_by(held.c.expires_at, held.c.lease_id)
    if after is not None:
        query = query.where(tuple_(held.c.expires_at, held.c.lease_id) > _place(after))
    return _page(connection, query, limit, "expires_at")


def _held(now: int) -> CTE:
    """What is held now, found by when it ends and only then narrowed: that is few of all that one secret ever had."""
    query = select(LEASES).where(LEASES.c.expires_at > now, LEASES.c.ended_at.is_(None))
    return query.cte("held").prefix_with("MATERIALIZED")


def all_leases(
    connection: Connection, wanted: LeaseFilter, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[RowMapping]:
    """What is and was held, the newest first; parameters as for `open_leases`."""
    query = (
        select(LEASES).where(*wanted.conditions(LEASES.c)).order_by(LEASES.c.issued_at.desc(), LEASES.c.lease_id.desc())
    )
    if after is not None:
        query = query.where(tuple_(LEASES.c.issued_at, LEASES.c.lease_id) < _place(after))
    return _page(connection, query, limit, "issued_at")


def find_lease(connection: Connection, lease_id: str) -> RowMapping | None:
    """One lease; None if the ledger knows none of that id."""
    return connection.execute(select(LEASES).where(LEASES.c.lease_id == lease_id)).mappings().one_or_none()


def count_open(connection: Connection, now: int, by: str) -> dict[str, int]:
    """How many leases are held now.

    Args:
        connection: to the ledger.
        now: the time, ms since the epoch.
        by: the column whose values they are counted by: `agent_id` or `secret_name`.
    """
    held = _held(now)
    query = select(held.c[by], func.count()).group_by(held.c[by])
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}


def _place(cursor: Cursor) -> Tuple:
    return tuple_(literal(cursor.number), literal(cursor.key))


def _page(connection: Connection, query: Select[Any], limit: int, order: str) -> Page[RowMapping]:
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    return cut(rows, limit, lambda row: Cursor(row[order], row["lease_id"]))
