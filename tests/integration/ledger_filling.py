"""A run ledger of any size for tests: a month of made-up agents, runs, leases, approvals and trouble, in bulk.

The rows are what a projection of the same events leaves behind; each event's line is a real line of a real chain.
The same seed gives the same ledger.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, insert

from agent_sdk.wire.audit import GENESIS, AuditRecord, encode_line, event_id, format_time, line_hash
from agent_sdk.wire.errors import Code
from broker_worker.ledger.schema import APPROVALS, CHAINS, EVENTS, FINDINGS, LEASES, METADATA, REVOCATIONS, RUNS, USAGE

NOW: Final = 1_893_680_000_000
HOUR: Final = 3_600_000
DAYS: Final = 30
BUSY_RUN: Final = ("agent-00", "run-busy")
"""The run that asks for much more than any other."""
BUSY_SECRET: Final = "service-00.api_key"
_WORKERS = ("worker-1", "worker-2")
_POLICY = "3f" * 32
_PURPOSES = ("call the model", "open a pull request", "nightly report", "send the digest", "read the queue")
_EVENT_COLUMNS = tuple(column.name for column in EVENTS.columns if column.name != "position")
_REFUSALS = (
    (Code.DENIED, "no_grant"),
    (Code.DENIED, "denied_explicitly"),
    (Code.RATE_LIMITED, "rate_limited"),
    (Code.UNAVAILABLE, "timeout"),
    (Code.UNAVAILABLE, "unreachable"),
    (Code.APPROVAL_DENIED, "approval_denied"),
    (Code.REVOKED, "run_revoked"),
)


@dataclass
class _Chain:
    """Where a worker's chain stands."""

    worker: str
    chain: str
    sequence: int = 0
    prev: str = GENESIS


@dataclass
class LedgerFilling:
    """Makes the rows of a ledger.

    Args:
        events: how many rows the events table gets.
        now: the newest event's time, ms since the epoch.
        agents: how many agents there are.
        secrets: how many secrets they ask for.
        seed: of the made-up history.
    """

    events: int = 100_000
    now: int = NOW
    agents: int = 24
    secrets: int = 140
    seed: int = 7
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._chains = [_Chain(worker, f"{index:016x}") for index, worker in enumerate(_WORKERS, 1)]
        self._runs: dict[tuple[str, str], dict[str, Any]] = {}
        self._usage: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
        self._open: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._revoked: dict[str, int] = {}
        self._asking = (*BUSY_RUN, BUSY_SECRET)
        self._number = 0
        self.agent_ids = [f"agent-{index:02d}" for index in range(self.agents)]
        self.secret_names = [f"service-{index:02d}.api_key" for index in range(self.secrets)]

    def fill(self, engine: Engine, months: int = 1) -> None:
        """Make the tables that are missing and fill them, in one transaction.

        Args:
            engine: the database.
            months: how often the month happened, once after the other; SQLite copies it in a fifth of the time that
                it takes to make.
        """
        self._make()
        METADATA.create_all(engine)
        for position, row in enumerate(self.rows["events"], 1 + (months - 1) * self.events):
            row["position"] = position
        with engine.begin() as connection:
            for table in (EVENTS, RUNS, LEASES, APPROVALS, USAGE, REVOCATIONS, CHAINS, FINDINGS):
                if self.rows[table.name]:
                    connection.execute(insert(table), self.rows[table.name])
            for table in (EVENTS, LEASES, APPROVALS, USAGE):
                self._repeat(connection, table, months)
        self.rows.clear()

    def _repeat(self, connection: Connection, table: Table, months: int) -> None:
        """Copy the rows of the newest month into those before, with times and keys that fit."""
        newest = f"SELECT * FROM {table.name} LIMIT {len(self.rows[table.name])}"
        connection.exec_driver_sql(f"CREATE TEMP TABLE newest AS {newest}")
        for month in range(1, months):
            told = ", ".join(self._earlier(column.name, month) for column in table.columns)
            connection.exec_driver_sql(f"INSERT INTO {table.name} SELECT {told} FROM newest")
        connection.exec_driver_sql("DROP TABLE newest")

    def _earlier(self, column: str, months: int) -> str:
        """What stands in a column of a row so many months before."""
        if column == "position":
            return f"position - {months * self.events}"
        if column == "hour" or column.endswith("_at") or column == "at":
            return f"{column} - {months * DAYS * 24 * HOUR}"
        if column in ("event_id", "lease_id", "approval_id"):
            return f"printf('%x', {months}) || substr({column}, 2)"
        return column

    def _make(self) -> None:
        for chain in self._chains:
            self._note(chain, self.now - DAYS * 24 * HOUR, event="worker_started")
        while len(self.rows["events"]) < self.events - 1:
            self._one_event(self._time())
        self._note(self._chains[0], self.now, event="config_loaded", policy=_POLICY)
        self.rows["runs"] = list(self._runs.values())
        self.rows["usage"] = [
            {"agent_id": agent, "secret_name": name, "hour": hour, "granted": granted, "refused": refused}
            for (agent, name, hour), (granted, refused) in self._usage.items()
        ]
        self.rows["revocations"] = [
            {
                "subject": subject,
                "revoked_at": at,
                "reinstated_at": None,
                "reason": "leaked in a log",
                "revoked_by": "maria",
            }
            for subject, at in self._revoked.items()
        ]
        self.rows["chains"] = [
            {
                "chain": each.chain,
                "worker": each.worker,
                "next_sequence": each.sequence,
                "prev": each.prev,
                "updated_at": self.now,
            }
            for each in self._chains
        ]
        self.rows["findings"] = [
            {"at": self.now - HOUR, "fault": "removed", "chain": self._chains[0].chain, "sequence": 7, "detail": "gap"}
        ]

    def _time(self) -> int:
        """When the next event happens: evenly over the month, in order."""
        share = len(self.rows["events"]) / self.events
        return self.now - int((1 - share) * DAYS * 24 * HOUR)

    def _one_event(self, at: int) -> None:
        if self._random.random() > 0.6:  # else the same run asks for the same secret again
            name = BUSY_SECRET if self._random.random() < 0.2 else self._random.choice(self.secret_names)
            self._asking = (*self._who(at), name)
        agent, run_id, name = self._asking
        chain = self._random.choice(self._chains)
        kind = self._random.random()
        if kind < 0.8:
            self._grant(chain, at, agent, run_id, name)
        elif kind < 0.93:
            self._refuse(chain, at, agent, run_id, name)
        elif kind < 0.96:
            self._approval(chain, at, agent, run_id, name)
        elif kind < 0.961:
            self._revoke(chain, at, agent, run_id)
        elif kind < 0.97:
            self._note(chain, at, event="unauthenticated", agent_id=agent, outcome="refused", reason="bad_token")
        else:
            event = self._random.choice(("config_loaded", "queue_distrusted", "notified", "decision_refused"))
            self._note(chain, at, event=event, reason="made up")

    def _who(self, at: int) -> tuple[str, str]:
        if self._random.random() < 0.05:
            return BUSY_RUN
        agent = self._random.choice(self.agent_ids)
        return agent, f"run-{(self.now - at) // (12 * HOUR):03d}-{agent[-2:]}"

    def _grant(self, chain: _Chain, at: int, agent: str, run_id: str, name: str) -> None:
        lease = self._open.get((agent, run_id, name))
        if lease is None or lease["expires_at"] <= at:
            lease = self._new_lease(at, agent, run_id, name)
        lease["uses"] += 1
        self._note(
            chain,
            at,
            event="access",
            action="resolve",
            outcome="granted",
            source="cache" if lease["uses"] > 1 else "provider",
            version=lease["version"],
            expires_at=format_time(lease["expires_at"]),
            lease_id=lease["lease_id"],
            lease_ends=format_time(lease["ends_at"]),
            uses=lease["uses"],
            **self._asked(agent, run_id, name),
        )

    def _new_lease(self, at: int, agent: str, run_id: str, name: str) -> dict[str, Any]:
        self._number += 1
        lease = {
            "lease_id": f"{self._number:032x}",
            "agent_id": agent,
            "run_id": run_id,
            "secret_name": name,
            "version": str(1 + self._number % 3),
            "issued_at": at,
            "expires_at": at + 300_000,
            "ends_at": at + HOUR,
            "uses": 0,
            "renewals": 0,
            "ended_at": at + 60_000 if self._number % 10 == 0 else None,
            "end_reason": "released" if self._number % 10 == 0 else None,
            "approval_id": None,
            "keeper_agent_id": "egress" if self._number % 5 == 0 else None,
            "keeper_run_id": "run-9" if self._number % 5 == 0 else None,
        }
        self._open[agent, run_id, name] = lease
        self.rows["leases"].append(lease)
        return lease

    def _refuse(self, chain: _Chain, at: int, agent: str, run_id: str, name: str) -> None:
        code, reason = self._random.choice(_REFUSALS)
        asked = self._asked(agent, run_id, name)
        self._note(chain, at, event="access", action="resolve", outcome="refused", code=code, reason=reason, **asked)

    def _approval(self, chain: _Chain, at: int, agent: str, run_id: str, name: str) -> None:
        self._number += 1
        approval_id = f"{self._number:016x}"
        state = self._random.choice(("approved", "denied", "expired"))
        who = {"agent_id": agent, "run_id": run_id, "secret_name": name, "approval_id": approval_id}
        purpose, until = self._random.choice(_PURPOSES), at + 600_000
        self._note(
            chain,
            at,
            event="approval_requested",
            action="resolve",
            approver="ops",
            purpose=purpose,
            expires_at=format_time(until),
            rule="policy.yaml:31",
            **who,
        )
        if state != "expired":
            outcome = "granted" if state == "approved" else "refused"
            self._note(chain, at + 30_000, event="approval_decided", approver="maria", outcome=outcome, **who)
        outcome = "granted" if state == "approved" else "refused"
        settled = at + (600_000 if state == "expired" else 30_000)
        self._note(chain, settled, event="approval_settled", outcome=outcome, reason=state, **who)
        self.rows["approvals"].append(
            {
                "approval_id": approval_id,
                "agent_id": agent,
                "run_id": run_id,
                "secret_names": name,
                "purpose": purpose,
                "approvers": "ops",
                "asked_at": at,
                "expires_at": until,
                "state": state,
                "settled_at": settled,
                "decided_by": None if state == "expired" else "maria",
                "reason": None,
                "used": int(state == "approved"),
            }
        )

    def _revoke(self, chain: _Chain, at: int, agent: str, run_id: str) -> None:
        subject = f"run:{agent}/{run_id}"
        self._note(chain, at, event="revoked", subject=subject, reason="leaked in a log", approver="maria")
        self._revoked[subject] = at
        if (agent, run_id) in self._runs:
            self._runs[agent, run_id]["revoked_at"] = at

    def _asked(self, agent: str, run_id: str, name: str) -> dict[str, Any]:
        return {
            "agent_id": agent,
            "run_id": run_id,
            "secret_name": name,
            "purpose": self._random.choice(_PURPOSES),
            "rule": "policy.yaml:12",
            "policy": _POLICY,
            "provider": "onepassword",
            "request_id": f"{self._random.getrandbits(128):032x}",
            "issuer": "local",
            "task": "keep the lights on",
            "latency_us": self._random.randrange(150, 4000),
        }

    def _note(self, chain: _Chain, at: int, **fields: Any) -> None:
        at = min(at, self.now)
        record = AuditRecord(v=1, timestamp=format_time(at), **fields)
        line = encode_line(record, chain.worker, chain.chain, chain.sequence, chain.prev)
        place = {"worker": chain.worker, "chain": chain.chain, "sequence": chain.sequence}
        known = fields | place | {"event_id": event_id(chain.chain, chain.sequence), "at": at, "line": line.decode()}
        self.rows["events"].append({name: known.get(name) for name in _EVENT_COLUMNS})
        chain.sequence, chain.prev = chain.sequence + 1, line_hash(line)
        if fields["event"] == "access":
            self._count(at, fields)

    def _count(self, at: int, fields: dict[str, Any]) -> None:
        agent, run_id = fields["agent_id"], fields["run_id"]
        is_refused = fields["outcome"] == "refused"
        self._usage[agent, fields["secret_name"], at - at % HOUR][is_refused] += 1
        run = self._runs.setdefault(
            (agent, run_id),
            {
                "agent_id": agent,
                "run_id": run_id,
                "task": fields["task"],
                "issuer": fields["issuer"],
                "first_at": at,
                "last_at": at,
                "granted": 0,
                "refused": 0,
                "revoked_at": None,
            },
        )
        run["last_at"] = at
        run["refused" if is_refused else "granted"] += 1
