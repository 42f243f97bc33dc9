"""Runs: the list of them, and the story of one."""

from typing import Any

from sqlalchemy import Connection, RowMapping, Select, literal, select, tuple_

from broker_worker.dashboard.reads.events import shown_columns
from broker_worker.dashboard.reads.keyset import PAGE, Cursor, Page, cut
from broker_worker.dashboard.reads.leases import lease_columns
from broker_worker.ledger.queries import LeaseRow
from broker_worker.ledger.schema import APPROVALS, EVENTS, LEASES, RUNS

LEASES_OF_A_RUN = 200
APPROVALS_OF_A_RUN = 10
_SHOWN = shown_columns()


def list_runs(
    connection: Connection,
    *,
    agent: str | None = None,
    is_revoked: bool = False,
    after: Cursor | None = None,
    limit: int = PAGE,
) -> Page[RowMapping]:
    """Runs, the most recently active first.

    Args:
        connection: to the ledger.
        agent: only this agent's.
        is_revoked: only revoked ones.
        after: the last row of the page before.
        limit: how many.
    """
    query = select(RUNS).order_by(RUNS.c.last_at.desc(), RUNS.c.agent_id.desc(), RUNS.c.run_id.desc())
    if agent is not None:
        query = query.where(RUNS.c.agent_id == agent)
    if is_revoked:
        query = query.where(RUNS.c.revoked_at.is_not(None))
    if after is not None:
        agent_id, _, run_id = after.key.partition("/")
        place = tuple_(literal(after.number), literal(agent_id), literal(run_id))
        query = query.where(tuple_(RUNS.c.last_at, RUNS.c.agent_id, RUNS.c.run_id) < place)
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    return cut(rows, limit, lambda row: Cursor(row["last_at"], f"{row['agent_id']}/{row['run_id']}"))


def find_run(connection: Connection, agent: str, run: str) -> RowMapping | None:
    """One run; None if the ledger knows none of that name."""
    query = select(RUNS).where(RUNS.c.agent_id == agent, RUNS.c.run_id == run)
    return connection.execute(query).mappings().one_or_none()


def story_of(
    connection: Connection, agent: str, run: str, *, after: Cursor | None = None, limit: int = PAGE
) -> Page[RowMapping]:
    """What happened in a run, in order: its own events, and revocations of it, of its agent or of its leases.

    Args:
        connection: to the ledger.
        agent: the run's agent.
        run: its id.
        after: the last row of the page before.
        limit: how many.
    """
    own = select(*_SHOWN).where(EVENTS.c.agent_id == agent, EVENTS.c.run_id == run)
    held = select(literal("lease:") + LEASES.c.lease_id).where(LEASES.c.agent_id == agent, LEASES.c.run_id == run)
    whole = select(*_SHOWN).where(EVENTS.c.subject.in_((f"run:{agent}/{run}", f"agent:{agent}")))
    single = select(*_SHOWN).where(EVENTS.c.subject.in_(held))
    rows = [
        row for query in (own, whole, single) for row in connection.execute(_page_of(query, after, limit)).mappings()
    ]
    found = sorted({row["position"]: row for row in rows}.values(), key=lambda row: (row["at"], row["position"]))
    return cut(found[: limit + 1], limit, lambda row: Cursor(row["at"], str(row["position"])))


def _page_of(query: Select[Any], after: Cursor | None, limit: int) -> Select[Any]:
    if after is not None and after.position is not None:
        place = tuple_(literal(after.number), literal(after.position))
        query = query.where(tuple_(EVENTS.c.at, EVENTS.c.position) > place)
    return query.order_by(EVENTS.c.at, EVENTS.c.position).limit(limit + 1)


def leases_of(connection: Connection, agent: str, run: str) -> list[LeaseRow]:
    """The newest leases of a run, newest first."""
    query = select(*lease_columns()).where(LEASES.c.agent_id == agent, LEASES.c.run_id == run)
    query = query.order_by(LEASES.c.issued_at.desc(), LEASES.c.lease_id).limit(LEASES_OF_A_RUN)
    return [LeaseRow(**row) for row in connection.execute(query).mappings()]


def approvals_of(connection: Connection, agent: str, run: str) -> list[RowMapping]:
    """The newest approvals that a run asked for, newest first."""
    query = select(APPROVALS).where(APPROVALS.c.agent_id == agent, APPROVALS.c.run_id == run)
    query = query.order_by(APPROVALS.c.asked_at.desc(), APPROVALS.c.approval_id).limit(APPROVALS_OF_A_RUN)
    return list(connection.execute(query).mappings())
