"""Leases: who holds what, until when, and who held it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import CTE, ColumnElement, Connection, Select, func, literal, select, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.expression import Tuple

from broker_worker.dashboard.reads.keyset import PAGE, Cursor, Page, cut
from broker_worker.ledger.queries import LeaseRow, is_open, revoked_at
from broker_worker.ledger.schema import LEASES

VERSIONS: Final = 6
_VERSIONS_LOOKED_AT: Final = 500


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


def lease_columns() -> list[ColumnElement[Any]]:
    """What a `LeaseRow` is made of, to select from `leases`."""
    columns: list[ColumnElement[Any]] = [LEASES.c[name] for name in LeaseRow.__dataclass_fields__ if name != "cut_at"]
    return [*columns, revoked_at().label("cut_at")]


def open_leases(
    connection: Connection, wanted: LeaseFilter, now: int, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[LeaseRow]:
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
    return _page(connection, query, limit, lambda lease: Cursor(lease.expires_at, lease.lease_id))


def _held(now: int) -> CTE:
    """What is held now, found by when it ends and only then narrowed: that is few of all that one secret ever had."""
    return select(*lease_columns()).where(is_open(now)).cte("held").prefix_with("MATERIALIZED")


def all_leases(
    connection: Connection, wanted: LeaseFilter, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[LeaseRow]:
    """What is and was held, the newest first; parameters as for `open_leases`."""
    query = select(*lease_columns()).where(*wanted.conditions(LEASES.c))
    if after is not None:
        query = query.where(tuple_(LEASES.c.issued_at, LEASES.c.lease_id) < _place(after))
    query = query.order_by(LEASES.c.issued_at.desc(), LEASES.c.lease_id.desc())
    return _page(connection, query, limit, lambda lease: Cursor(lease.issued_at, lease.lease_id))


def is_known_lease(connection: Connection, lease_id: str) -> bool:
    """Whether the ledger knows a lease of that id."""
    return connection.execute(select(LEASES.c.lease_id).where(LEASES.c.lease_id == lease_id)).first() is not None


def versions_of(connection: Connection, secret: str) -> list[str]:
    """The versions of a secret among its newest leases, the newest first."""
    query = select(LEASES.c.version).where(LEASES.c.secret_name == secret).order_by(LEASES.c.issued_at.desc())
    found = dict.fromkeys(version for (version,) in connection.execute(query.limit(_VERSIONS_LOOKED_AT)))
    return [version for version in found if version is not None][:VERSIONS]


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


def _page(
    connection: Connection, query: Select[Any], limit: int, cursor_of: Callable[[LeaseRow], Cursor]
) -> Page[LeaseRow]:
    rows = connection.execute(query.limit(limit + 1)).mappings()
    return cut([LeaseRow(**row) for row in rows], limit, cursor_of)
