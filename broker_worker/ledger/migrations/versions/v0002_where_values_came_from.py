"""How fresh the value of a lease was: where it came from, and how old it was."""

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BATCH = 1000
_LEAST_FRESH = ("provider", "cache", "stale")


def upgrade() -> None:
    """Add the columns, and fill them from the events that are there."""
    op.add_column("leases", sa.Column("source", sa.String(length=16), nullable=True))
    op.add_column("leases", sa.Column("age_s", sa.BigInteger(), nullable=True))
    found: dict[str, tuple[int, int | None]] = {}
    for lease_id, source, age_s in _uses():
        rank, age = found.get(lease_id, (0, None))
        newer = age_s if age is None else max(age, age_s or 0)
        found[lease_id] = (max(rank, _LEAST_FRESH.index(source)), newer)
    leases = sa.table("leases", sa.column("lease_id"), sa.column("source"), sa.column("age_s"))
    rows = [{"of": lease, "source": _LEAST_FRESH[rank], "age_s": age} for lease, (rank, age) in found.items()]
    statement = leases.update().where(leases.c.lease_id == sa.bindparam("of"))
    for start in range(0, len(rows), _BATCH):
        op.get_bind().execute(statement, rows[start : start + _BATCH])


def downgrade() -> None:
    """There is no way back: the older program makes its own from the audit."""
    raise RuntimeError("the ledger has no older form: run the older program's `ledger rebuild` on another database")


def _uses() -> Iterator[tuple[str, str, int | None]]:
    events = sa.table("events", sa.column("lease_id"), sa.column("source"), sa.column("line"))
    query = sa.select(events.c.lease_id, events.c.source, events.c.line)
    query = query.where(events.c.lease_id.is_not(None), events.c.source.in_(_LEAST_FRESH))
    for row in op.get_bind().execute(query.execution_options(yield_per=_BATCH)):
        yield row.lease_id, row.source, json.loads(row.line).get("age_s")
