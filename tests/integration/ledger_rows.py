"""Single rows of a dashboard's ledger, for tests that say exactly what stands there."""

from typing import Any

from dashboard_house import NOW, House
from sqlalchemy import Table, insert

from broker_worker.ledger.schema import APPROVALS, LEASES, REVOCATIONS, RUNS, USAGE

HOUR = 3_600_000
LEASE = "ab" * 16


def put(house: House, table: Table, **values: Any) -> None:
    """Put a row into a table."""
    with house.writer.begin() as connection:
        connection.execute(insert(table).values(**values))


def run(house: House, **values: Any) -> None:
    """Put in a run: `claude/run-1`, active now, unless told otherwise."""
    standard = {"agent_id": "claude", "run_id": "run-1", "task": "mend it", "issuer": "local"}
    counts = {"first_at": NOW - HOUR, "last_at": NOW, "granted": 3, "refused": 1}
    put(house, RUNS, **(standard | counts | values))


def lease(house: House, **values: Any) -> None:
    """Put in a lease: open, of `github.token`, held by `claude/run-1`, unless told otherwise."""
    standard = {"lease_id": LEASE, "agent_id": "claude", "run_id": "run-1", "secret_name": "github.token"}
    times = {"issued_at": NOW - 60_000, "expires_at": NOW + 240_000, "ends_at": NOW + HOUR, "uses": 2, "version": "7"}
    put(house, LEASES, **(standard | times | values))


def approval(house: House, **values: Any) -> None:
    """Put in an approval that `claude/run-1` waits for, unless told otherwise."""
    standard = {"approval_id": "cd" * 8, "agent_id": "claude", "run_id": "run-1", "secret_names": "github.token"}
    rest = {"asked_at": NOW, "expires_at": NOW + HOUR, "state": "waiting", "purpose": "merge it"}
    put(house, APPROVALS, **(standard | rest | values))


def used(house: House, **values: Any) -> None:
    """Put in an hour's use of `github.token` by `claude`, unless told otherwise."""
    standard = {"agent_id": "claude", "secret_name": "github.token", "hour": NOW - NOW % HOUR}
    put(house, USAGE, **(standard | {"granted": 5, "refused": 2} | values))


def revoked(house: House, subject: str, **values: Any) -> None:
    """Put in an order in force about a subject."""
    standard = {"subject": subject, "revoked_at": NOW - 1000, "reason": "leaked", "revoked_by": "maria"}
    put(house, REVOCATIONS, **(standard | values))
