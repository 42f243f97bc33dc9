"""How the broker does, as the audit tells it: workers, vaults, the cache, the chains themselves."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, Select, func, select

from broker_worker.dashboard.reads.usage import HOUR_MS, Count
from broker_worker.ledger.schema import CHAINS, EVENTS, FINDINGS
from broker_worker.settings import OPERATOR_CHAIN

FINDINGS_SHOWN: Final = 20
INCIDENTS_SHOWN: Final = 20
_LIFE: Final = ("worker_started", "worker_stopped")
_INCIDENTS: Final = ("queue_distrusted", "config_rejected", "decision_refused", "job_refused", "unauthenticated")
WORKERS_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker as its audit shows it.

    Args:
        name: the worker.
        chain: the chain that it writes, or wrote last.
        events: how many lines of that chain are in the ledger.
        seen_at: when the ledger last took a line of it, ms since the epoch.
        started_at: when it last started, ms since the epoch; None if the ledger begins later.
        stopped_at: when it stopped; None if it did not, as far as it could say so.
    """

    name: str
    chain: str
    events: int
    seen_at: int
    started_at: int | None
    stopped_at: int | None


def workers_seen(connection: Connection) -> list[WorkerSeen]:
    """The workers that wrote lately, by name; of each its newest chain. Commands of operators are none."""
    newest: dict[str, RowMapping] = {}
    workers = select(CHAINS).where(CHAINS.c.worker != OPERATOR_CHAIN)
    query = workers.order_by(CHAINS.c.updated_at.desc(), CHAINS.c.chain.desc()).limit(WORKERS_SHOWN)
    for row in connection.execute(query).mappings():
        newest.setdefault(row["worker"], row)
    life = {event: _last_of(connection, event) for event in _LIFE}
    seen = []
    for name, row in sorted(newest.items()):
        started, stopped = life["worker_started"].get(name), life["worker_stopped"].get(name)
        is_over = stopped is not None and (started is None or stopped >= started)
        seen.append(
            WorkerSeen(
                name, row["chain"], row["next_sequence"], row["updated_at"], started, stopped if is_over else None
            )
        )
    return seen


def _last_of(connection: Connection, event: str) -> dict[str, int]:
    """When each worker last recorded an event of that kind; the newest thousand are looked at."""
    query = select(EVENTS.c.worker, EVENTS.c.at).where(EVENTS.c.event == event)
    last: dict[str, int] = {}
    for worker, at in connection.execute(query.order_by(EVENTS.c.at.desc()).limit(1000)):
        last.setdefault(worker, at)
    return last


def vault_failures(connection: Connection, since: int) -> list[RowMapping]:
    """What vaults did not give: provider, reason, how often and when last, the most frequent first."""
    query = (
        select(EVENTS.c.provider, EVENTS.c.reason, func.count().label("times"), func.max(EVENTS.c.at).label("last_at"))
        .where(EVENTS.c.code == "unavailable", EVENTS.c.at >= since)
        .group_by(EVENTS.c.provider, EVENTS.c.reason)
        .order_by(func.count().desc(), EVENTS.c.provider, EVENTS.c.reason)
    )
    return list(connection.execute(query).mappings())


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Where values came from.

    Args:
        hits: how many came from the cache.
        fetches: how many a vault was asked for.
        series: per hour, hits as `granted` and fetches as `refused`, the present hour last.
        start: where the first hour begins, ms since the epoch.
        stale: how many came from the cache past their time, because a vault failed.
    """

    hits: int
    fetches: int
    series: tuple[Count, ...]
    start: int
    stale: int = 0

    @property
    def ratio(self) -> float | None:
        """The share of hits, 0 to 1; None if nothing was handed out."""
        total = self.hits + self.fetches
        return self.hits / total if total else None


def cache_use(connection: Connection, now: int, hours: int = 24) -> CacheUse:
    """Where the values of the last hours came from.

    Args:
        connection: to the ledger.
        now: the time, ms since the epoch.
        hours: how many, the present one included.
    """
    start = now - now % HOUR_MS - (hours - 1) * HOUR_MS
    per_source = {source: _per_hour(connection, source, start, hours) for source in ("cache", "provider", "stale")}
    series = tuple(Count(hit, fetch) for hit, fetch in zip(per_source["cache"], per_source["provider"], strict=True))
    return CacheUse(sum(per_source["cache"]), sum(per_source["provider"]), series, start, sum(per_source["stale"]))


def _per_hour(connection: Connection, source: str, start: int, hours: int) -> list[int]:
    step = ((EVENTS.c.at - start) // HOUR_MS).label("step")
    query = select(step, func.count()).where(
        EVENTS.c.source == source, EVENTS.c.at.between(start, start + hours * HOUR_MS - 1)
    )
    counts = [0] * hours
    for index, count in connection.execute(query.group_by(step)):
        counts[index] = count
    return counts


@dataclass(frozen=True, slots=True)
class AuditState:
    """What the ledger knows of the audit's chains.

    Args:
        chains: how many it has read.
        events: how many lines they have.
        findings: how much was wrong.
        newest: the latest of what was wrong, newest first.
        newest_at: when the newest event in the ledger happened, ms since the epoch; None if there is none.
    """

    chains: int
    events: int
    findings: int
    newest: tuple[RowMapping, ...]
    newest_at: int | None


def audit_state(connection: Connection) -> AuditState:
    """What the ledger knows of the audit's chains."""
    counted = select(func.count(), func.coalesce(func.sum(CHAINS.c.next_sequence), 0)).select_from(CHAINS)
    chains, events = connection.execute(counted).one()
    findings = connection.execute(select(func.count()).select_from(FINDINGS)).scalar_one()
    newest = connection.execute(_newest_findings()).mappings().all()
    at = connection.execute(select(EVENTS.c.at).order_by(EVENTS.c.at.desc()).limit(1)).scalar()
    return AuditState(chains, int(events), findings, tuple(newest), at)


def _newest_findings() -> Select[tuple[object, ...]]:
    return select(FINDINGS).order_by(FINDINGS.c.id.desc()).limit(FINDINGS_SHOWN)


def incidents(connection: Connection, since: int) -> list[RowMapping]:
    """What nobody should see often, since a time: kind, reason, by how many agents, how often and when last."""
    query = (
        select(
            EVENTS.c.event,
            EVENTS.c.outcome,
            EVENTS.c.reason,
            func.max(EVENTS.c.agent_id).label("agent_id"),
            func.count(EVENTS.c.agent_id.distinct()).label("agents"),
            func.sum(func.coalesce(EVENTS.c["count"], 1)).label("times"),
            func.max(EVENTS.c.at).label("last_at"),
        )
        .where(EVENTS.c.event.in_(_INCIDENTS), EVENTS.c.at >= since)
        .group_by(EVENTS.c.event, EVENTS.c.outcome, EVENTS.c.reason)
        .order_by(func.max(EVENTS.c.at).desc())
        .limit(INCIDENTS_SHOWN)
    )
    return list(connection.execute(query).mappings())
