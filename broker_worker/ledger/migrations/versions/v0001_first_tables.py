"""The first tables of the run ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _make_approvals()
    _make_chains()
    _make_events()
    _make_findings()
    _make_leases()
    _make_revocations()
    _make_runs()
    _make_usage()


def downgrade() -> None:
    """There is no way back: the older program makes its own from the audit."""
    raise RuntimeError("the ledger has no older form: run the older program's `ledger rebuild` on another database")


def _make_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String(length=16), nullable=False),
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=128), nullable=False),
        sa.Column("secret_names", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column("approvers", sa.String(length=512), nullable=True),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.String(length=512), nullable=True),
        sa.Column("reason", sa.String(length=256), nullable=True),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("approval_id"),
    )
    op.create_index("approvals_by_run", "approvals", ["agent_id", "run_id", "asked_at"], unique=False)
    op.create_index("approvals_by_time", "approvals", ["asked_at"], unique=False)


def _make_chains() -> None:
    op.create_table(
        "chains",
        sa.Column("chain", sa.String(length=16), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chain"),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("agent_id", sa.String(length=64), nullable=True),
        sa.Column("run_id", sa.String(length=128), nullable=True),
        sa.Column("secret_name", sa.String(length=256), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("source", sa.String(length=16), nullable=True),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.String(length=256), nullable=True),
        sa.Column("action", sa.String(length=16), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column("rule", sa.String(length=512), nullable=True),
        sa.Column("policy", sa.String(length=64), nullable=True),
        sa.Column("provider", sa.String(length=64), nullable=True),
        sa.Column("version", sa.String(length=128), nullable=True),
        sa.Column("lease_id", sa.String(length=32), nullable=True),
        sa.Column("approval_id", sa.String(length=16), nullable=True),
        sa.Column("approver", sa.String(length=512), nullable=True),
        sa.Column("subject", sa.String(length=512), nullable=True),
        sa.Column("request_id", sa.String(length=32), nullable=True),
        sa.Column("task", sa.String(length=256), nullable=True),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("chain", sa.String(length=16), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("line", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index("events_by_agent", "events", ["agent_id", "at"], unique=False)
    op.create_index(
        "events_by_code",
        "events",
        ["code", "at"],
        unique=False,
        sqlite_where=sa.text("code IS NOT NULL"),
        postgresql_where=sa.text("code IS NOT NULL"),
    )
    op.create_index("events_by_kind", "events", ["event", "at"], unique=False)
    op.create_index("events_by_outcome", "events", ["outcome", "at"], unique=False)
    op.create_index("events_by_run", "events", ["agent_id", "run_id", "at"], unique=False)
    op.create_index("events_by_secret", "events", ["secret_name", "at"], unique=False)
    op.create_index(
        "events_by_source",
        "events",
        ["source", "at"],
        unique=False,
        sqlite_where=sa.text("source IS NOT NULL"),
        postgresql_where=sa.text("source IS NOT NULL"),
    )
    op.create_index(
        "events_by_subject",
        "events",
        ["subject", "at"],
        unique=False,
        sqlite_where=sa.text("subject IS NOT NULL"),
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.create_index("events_by_time", "events", ["at", "event_id"], unique=False)
    op.create_index(
        "refusals_by_agent",
        "events",
        ["agent_id", "at"],
        unique=False,
        sqlite_where=sa.text("outcome = 'refused'"),
        postgresql_where=sa.text("outcome = 'refused'"),
    )
    op.create_index(
        "refusals_by_secret",
        "events",
        ["secret_name", "at"],
        unique=False,
        sqlite_where=sa.text("outcome = 'refused'"),
        postgresql_where=sa.text("outcome = 'refused'"),
    )


def _make_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("fault", sa.String(length=32), nullable=False),
        sa.Column("chain", sa.String(length=16), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _make_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.String(length=32), nullable=False),
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=128), nullable=False),
        sa.Column("secret_name", sa.String(length=256), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=True),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("renewals", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=256), nullable=True),
        sa.Column("approval_id", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("lease_id"),
    )
    op.create_index("leases_by_agent", "leases", ["agent_id", "issued_at"], unique=False)
    op.create_index("leases_by_end", "leases", ["expires_at"], unique=False)
    op.create_index("leases_by_run", "leases", ["agent_id", "run_id"], unique=False)
    op.create_index("leases_by_secret", "leases", ["secret_name", "issued_at"], unique=False)
    op.create_index("leases_by_time", "leases", ["issued_at"], unique=False)


def _make_revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("reinstated_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=256), nullable=True),
        sa.Column("revoked_by", sa.String(length=256), nullable=True),
        sa.PrimaryKeyConstraint("subject"),
    )


def _make_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=256), nullable=True),
        sa.Column("issuer", sa.String(length=256), nullable=True),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id", "run_id"),
    )
    op.create_index("runs_by_agent", "runs", ["agent_id", "last_at"], unique=False)
    op.create_index("runs_by_time", "runs", ["last_at"], unique=False)
    op.create_index(
        "runs_revoked",
        "runs",
        ["last_at"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )


def _make_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("secret_name", sa.String(length=256), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "secret_name", "hour"),
    )
    op.create_index("usage_by_agent", "usage", ["agent_id", "hour", "granted", "refused"], unique=False)
    op.create_index("usage_by_hour", "usage", ["hour"], unique=False)
    op.create_index("usage_by_secret", "usage", ["secret_name", "hour", "granted", "refused"], unique=False)
