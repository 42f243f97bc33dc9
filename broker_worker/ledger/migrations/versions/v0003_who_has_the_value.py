"""Who has the value of a lease: the run itself, or the run of a proxy or a gateway that asked on its behalf."""

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    """Add the columns, and fill them from the events that are there."""
    op.add_column("leases", sa.Column("keeper_agent_id", sa.String(length=64), nullable=True))
    op.add_column("leases", sa.Column("keeper_run_id", sa.String(length=128), nullable=True))
    held = sa.text("keeper_agent_id IS NOT NULL")
    columns = ["keeper_agent_id", "keeper_run_id"]
    op.create_index("leases_by_keeper", "leases", columns, sqlite_where=held, postgresql_where=held)
    leases = sa.table("leases", *(sa.column(name) for name in ("lease_id", *columns)))
    rows = [
        {"of": lease, "agent": agent, "run": run}
        for lease, actor in dict(_actors()).items()
        for agent, _, run in [actor.partition("/")]
    ]
    statement = (
        leases.update()
        .where(leases.c.lease_id == sa.bindparam("of"))
        .values(keeper_agent_id=sa.bindparam("agent"), keeper_run_id=sa.bindparam("run"))
    )
    for start in range(0, len(rows), _BATCH):
        op.get_bind().execute(statement, rows[start : start + _BATCH])


def downgrade() -> None:
    """There is no way back: the older program makes its own from the audit."""
    raise RuntimeError("the ledger has no older form: run the older program's `ledger rebuild` on another database")


def _actors() -> Iterator[tuple[str, str]]:
    events = sa.table("events", *(sa.column(name) for name in ("event", "lease_id", "line")))
    query = sa.select(events.c.lease_id, events.c.line)
    query = query.where(events.c.event == "access", events.c.lease_id.is_not(None))
    for row in op.get_bind().execute(query.execution_options(yield_per=_BATCH)):
        actor = json.loads(row.line).get("actor")
        if actor is not None:
            yield row.lease_id, actor
