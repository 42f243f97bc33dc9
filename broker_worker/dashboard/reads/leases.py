"""Leases: who holds what, until when, and who held it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, func, literal, select, tuple_
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

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """Only what the filter lets through."""
        wanted = {"agent_id": self.agent, "run_id": self.run, "secret_name": self.secret, "version": self.version}
        return query.where(*(LEASES.c[name] == value for name, value in wanted.items() if value is not None))


def is_open(now: int) -> ColumnElement[bool]:
    """Whether a lease is held at a time: neither expired nor ended before."""
    return and_(LEASES.c.expires_at > now, LEASES.c.ended_at.is_(None))


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
    query = wanted.narrow(select(LEASES)).where(is_open(now)).order_by(LEASES.c.expires_at, LEASES.c.lease_id)
    if after is not None:
        query = query.where(tuple_(LEASES.c.expires_at, LEASES.c.lease_id) > _place(after))
    return _page(connection, query, limit, "expires_at")


def all_leases(
    connection: Connection, wanted: LeaseFilter, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[RowMapping]:
    """What is and was held, the newest first; parameters as for `open_leases`."""
    query = wanted.narrow(select(LEASES)).order_by(LEASES.c.issued_at.desc(), LEASES.c.lease_id.desc())
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
    column = LEASES.c[by]
    query = select(column, func.count()).where(is_open(now)).group_by(column)
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}


def _place(cursor: Cursor) -> Tuple:
    return tuple_(literal(cursor.number), literal(cursor.key))


def _page(connection: Connection, query: Select[Any], limit: int, order: str) -> Page[RowMapping]:
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    return cut(rows, limit, lambda row: Cursor(row[order], row["lease_id"]))
