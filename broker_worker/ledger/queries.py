"""What the run ledger can be asked: runs, their story, who holds what, and who held a secret."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, String, and_, cast, exists, func, literal, or_, select

from broker_worker.ledger.database import database_errors
from broker_worker.ledger.schema import APPROVALS, CHAINS, EVENTS, FINDINGS, LEASES, REVOCATIONS, RUNS


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. Times are ms since the epoch; the fields are the columns of `runs`."""

    agent_id: str
    run_id: str
    task: str | None
    issuer: str | None
    first_at: int
    last_at: int
    granted: int
    refused: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease. Times are ms since the epoch; the fields are the columns of `leases`.

    The keeper is who asked on the run's behalf and has the value; None if the run has it. `cut_at` is when a revocation
    ended it that no worker recorded for this lease, if one did.
    """

    lease_id: str
    agent_id: str
    run_id: str
    secret_name: str
    version: str | None
    issued_at: int
    expires_at: int
    ends_at: int | None
    uses: int
    renewals: int
    ended_at: int | None
    end_reason: str | None
    approval_id: str | None
    source: str | None
    age_s: int | None
    keeper_agent_id: str | None
    keeper_run_id: str | None
    cut_at: int | None

    @property
    def until(self) -> int:
        """When it ended or will end by itself."""
        ends = [at for at in (self.ended_at, self.cut_at) if at is not None]
        return min([self.expires_at, *ends])

    @property
    def keeper(self) -> str | None:
        """Agent and run that have the value in place of the run that it was asked for; None if that has it."""
        return None if self.keeper_agent_id is None else f"{self.keeper_agent_id}/{self.keeper_run_id}"

    def is_open(self, now: int) -> bool:
        """Whether who has the value may still use it."""
        return now < self.until


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a story: its place in the order of things, and the line as the broker wrote it."""

    at: int
    event_id: str
    line: str


@dataclass(frozen=True, slots=True)
class ChainRow:
    """How far a chain is projected."""

    chain: str
    worker: str
    next_sequence: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """How much there is, and up to when."""

    events: int
    runs: int
    leases: int
    approvals: int
    findings: int
    newest_at: int | None
    chains: tuple[ChainRow, ...]


def list_runs(
    engine: Engine, *, agent: str | None = None, run: str | None = None, since: int | None = None, limit: int = 100
) -> Sequence[RunRow]:
    """The runs that were active last, newest first.

    Args:
        engine: the ledger.
        agent: only this agent's.
        run: only runs of this id.
        since: only those active at or after this time, ms since the epoch.
        limit: how many at most.
    """
    columns = [RUNS.c[name] for name in RunRow.__dataclass_fields__]
    query = select(*columns).order_by(RUNS.c.last_at.desc(), RUNS.c.agent_id, RUNS.c.run_id).limit(limit)
    for column, wanted in ((RUNS.c.agent_id, agent), (RUNS.c.run_id, run)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(RUNS.c.last_at >= since)
    return [RunRow(**row) for row in _rows(engine, query)]


def story(engine: Engine, agent: str, run: str, *, limit: int = 10_000) -> Sequence[EventRow]:
    """What happened in one run, in order: requests, refusals, approvals, leases, and revocations that ended it.

    Args:
        engine: the ledger.
        agent: the agent.
        run: the run.
        limit: how many events at most, the first ones.
    """
    of_lease = select(literal("lease:") + LEASES.c.lease_id).where(LEASES.c.agent_id == agent, LEASES.c.run_id == run)
    about = or_(EVENTS.c.subject.in_([f"run:{agent}/{run}", f"agent:{agent}"]), EVENTS.c.subject.in_(of_lease))
    own = and_(EVENTS.c.agent_id == agent, EVENTS.c.run_id == run)
    columns = (EVENTS.c.at, EVENTS.c.event_id, EVENTS.c.line, EVENTS.c.position)
    both = select(*columns).where(own).union(select(*columns).where(about)).subquery()
    query = select(both.c.at, both.c.event_id, both.c.line).order_by(both.c.at, both.c.position).limit(limit)
    return [EventRow(**row) for row in _rows(engine, query)]


def list_leases(
    engine: Engine,
    *,
    agent: str | None = None,
    run: str | None = None,
    secret: str | None = None,
    version: str | None = None,
    open_at: int | None = None,
    limit: int = 1000,
) -> Sequence[LeaseRow]:
    """Leases, newest first.

    Args:
        engine: the ledger.
        agent: only what this agent's runs hold, for themselves or for others, and what others hold for them.
        run: the same of this run.
        secret: only those of this secret.
        version: only those of this version of it.
        open_at: only those that are open at this time, ms since the epoch.
        limit: how many at most.
    """
    cut_at = revoked_at()
    columns = [LEASES.c[name] for name in LeaseRow.__dataclass_fields__ if name != "cut_at"]
    query = select(*columns, cut_at.label("cut_at")).order_by(LEASES.c.issued_at.desc(), LEASES.c.lease_id).limit(limit)
    own = _equal((LEASES.c.agent_id, agent), (LEASES.c.run_id, run))
    kept = _equal((LEASES.c.keeper_agent_id, agent), (LEASES.c.keeper_run_id, run))
    if own:
        query = query.where(or_(and_(*own), and_(*kept)))
    query = query.where(*_equal((LEASES.c.secret_name, secret), (LEASES.c.version, version)))
    if open_at is not None:
        query = query.where(is_open(open_at))
    return [LeaseRow(**row) for row in _rows(engine, query)]


def _equal(*wanted: tuple[ColumnElement[Any], str | None]) -> list[ColumnElement[bool]]:
    """The conditions of those that are asked for."""
    return [column == value for column, value in wanted if value is not None]


def is_open(now: int) -> ColumnElement[bool]:
    """The condition on `leases` that the value may still be used: not expired, not ended, nothing of it revoked.

    Args:
        now: the time, ms since the epoch.
    """
    revoked = exists().where(_covers(), REVOCATIONS.c.revoked_at >= LEASES.c.issued_at)
    return and_(LEASES.c.expires_at > now, or_(LEASES.c.ended_at.is_(None), LEASES.c.ended_at > now), ~revoked)


def read_status(engine: Engine) -> LedgerStatus:
    """How much the ledger holds."""
    tables = (EVENTS, RUNS, LEASES, APPROVALS, FINDINGS)
    columns = [CHAINS.c[name] for name in ChainRow.__dataclass_fields__]
    with database_errors(engine), engine.connect() as connection:
        counts = [connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables]
        newest = connection.scalar(select(func.max(EVENTS.c.at)))
        chains = connection.execute(select(*columns).order_by(CHAINS.c.worker, CHAINS.c.chain)).mappings()
        events, runs, leases, approvals, findings = counts
        rows = tuple(ChainRow(**row) for row in chains)
        return LedgerStatus(events, runs, leases, approvals, findings, newest, rows)


def revoked_at() -> ColumnElement[int | None]:
    """Of a row of `leases`: when a revocation first ended it; null if none did."""
    earliest = select(func.min(REVOCATIONS.c.revoked_at)).where(
        _covers(), REVOCATIONS.c.revoked_at >= LEASES.c.issued_at
    )
    return earliest.correlate(LEASES).scalar_subquery()


def _covers() -> ColumnElement[bool]:
    """That a row of `revocations` is about a lease, what it gives, whom it is for, or who has it."""
    secret = literal("secret:") + LEASES.c.secret_name
    return REVOCATIONS.c.subject.in_(
        [
            literal("lease:") + LEASES.c.lease_id,
            literal("run:") + LEASES.c.agent_id + literal("/") + LEASES.c.run_id,
            literal("agent:") + LEASES.c.agent_id,
            literal("run:") + func.coalesce(LEASES.c.keeper_agent_id + literal("/") + LEASES.c.keeper_run_id, ""),
            literal("agent:") + func.coalesce(LEASES.c.keeper_agent_id, ""),
            secret,
            secret + literal("@") + cast(func.coalesce(LEASES.c.version, ""), String),
        ]
    )


def _rows(engine: Engine, query: Any) -> Sequence[Any]:
    with database_errors(engine), engine.connect() as connection:
        return connection.execute(query).mappings().all()
