"""The tables of the run ledger (SQLAlchemy Core), the same on SQLite and PostgreSQL.

Times are milliseconds since the Unix epoch, so that they compare and index alike everywhere. Every row comes from the
audit and can be made again from it; nothing here is a source of truth.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, text

METADATA = MetaData()


def _index_where(name: str, *columns: str, condition: str) -> Index:
    """An index of the rows that a condition holds for: small where few rows are asked for."""
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


EVENTS = Table(
    "events",
    METADATA,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("agent_id", String(64)),
    Column("run_id", String(128)),
    Column("secret_name", String(256)),
    Column("outcome", String(16)),
    Column("source", String(16)),
    Column("code", String(32)),
    Column("reason", String(256)),
    Column("action", String(16)),
    Column("purpose", Text),
    Column("rule", String(512)),
    Column("policy", String(64)),
    Column("provider", String(64)),
    Column("version", String(128)),
    Column("lease_id", String(32)),
    Column("approval_id", String(16)),
    Column("approver", String(512)),
    Column("subject", String(512)),
    Column("request_id", String(32)),
    Column("task", String(256)),
    Column("worker", String(64), nullable=False),
    Column("chain", String(16), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("latency_us", BigInteger),
    Column("count", BigInteger),
    Column("line", Text, nullable=False),
    Index("events_by_time", "at", "event_id"),
    Index("events_by_run", "agent_id", "run_id", "at"),
    Index("events_by_secret", "secret_name", "at"),
    Index("events_by_outcome", "outcome", "at"),
    Index("events_by_agent", "agent_id", "at"),
    Index("events_by_kind", "event", "at"),
    _index_where("events_by_source", "source", "at", condition="source IS NOT NULL"),
    _index_where("events_by_code", "code", "at", condition="code IS NOT NULL"),
    _index_where("events_by_subject", "subject", "at", condition="subject IS NOT NULL"),
    _index_where("refusals_by_secret", "secret_name", "at", condition="outcome = 'refused'"),
    _index_where("refusals_by_agent", "agent_id", "at", condition="outcome = 'refused'"),
)
"""One row an audit line but checkpoints; `line` is the line as it was written.

`position` grows in the order in which rows are committed (one projection writes at a time), so that a reader who
remembers the last one that it saw continues with nothing lost or twice, whichever chain comes late.
"""

RUNS = Table(
    "runs",
    METADATA,
    Column("agent_id", String(64), primary_key=True),
    Column("run_id", String(128), primary_key=True),
    Column("task", String(256)),
    Column("issuer", String(256)),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("granted", Integer, nullable=False, default=0),
    Column("refused", Integer, nullable=False, default=0),
    Column("revoked_at", BigInteger),
    Index("runs_by_time", "last_at"),
    Index("runs_by_agent", "agent_id", "last_at"),
    _index_where("runs_revoked", "last_at", condition="revoked_at IS NOT NULL"),
)

LEASES = Table(
    "leases",
    METADATA,
    Column("lease_id", String(32), primary_key=True),
    Column("agent_id", String(64), nullable=False),
    Column("run_id", String(128), nullable=False),
    Column("secret_name", String(256), nullable=False),
    Column("version", String(128)),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger),
    Column("uses", Integer, nullable=False, default=0),
    Column("renewals", Integer, nullable=False, default=0),
    Column("ended_at", BigInteger),
    Column("end_reason", String(256)),
    Column("approval_id", String(16)),
    Column("source", String(16)),
    Column("age_s", BigInteger),
    Column("keeper_agent_id", String(64)),
    Column("keeper_run_id", String(128)),
    Index("leases_by_secret", "secret_name", "issued_at"),
    Index("leases_by_run", "agent_id", "run_id"),
    Index("leases_by_end", "expires_at"),
    Index("leases_by_time", "issued_at"),
    Index("leases_by_agent", "agent_id", "issued_at"),
    _index_where("leases_by_keeper", "keeper_agent_id", "keeper_run_id", condition="keeper_agent_id IS NOT NULL"),
)
"""`expires_at` moves with renewals, `ends_at` is the hard end; `ended_at` is set when it ended before its time.

`source` is where its value came from, the least fresh of its uses: `provider`, `cache`, or `stale` if that was ever
served past its time. `age_s` is how old it was at most when it was served; null if it always came from its vault. The
keeper is who asked on the run's behalf and has the value; null if that is the run itself."""

APPROVALS = Table(
    "approvals",
    METADATA,
    Column("approval_id", String(16), primary_key=True),
    Column("agent_id", String(64), nullable=False),
    Column("run_id", String(128), nullable=False),
    Column("secret_names", Text, nullable=False),
    Column("purpose", Text),
    Column("approvers", String(512)),
    Column("asked_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("settled_at", BigInteger),
    Column("decided_by", String(512)),
    Column("reason", String(256)),
    Column("used", Integer, nullable=False, default=0),
    Index("approvals_by_time", "asked_at"),
    Index("approvals_by_run", "agent_id", "run_id", "asked_at"),
)
"""`state`: `waiting`, `approved`, `denied`, `expired` or `void`; `secret_names` are separated by commas."""

USAGE = Table(
    "usage",
    METADATA,
    Column("agent_id", String(64), primary_key=True),
    Column("secret_name", String(256), primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("granted", Integer, nullable=False, default=0),
    Column("refused", Integer, nullable=False, default=0),
    Index("usage_by_secret", "secret_name", "hour", "granted", "refused"),
    Index("usage_by_agent", "agent_id", "hour", "granted", "refused"),
    Index("usage_by_hour", "hour"),
)
"""Per agent, secret and hour (ms since the epoch at its start): how often it was given and refused."""

REVOCATIONS = Table(
    "revocations",
    METADATA,
    Column("subject", String(512), primary_key=True),
    Column("revoked_at", BigInteger),
    Column("reinstated_at", BigInteger),
    Column("reason", String(256)),
    Column("revoked_by", String(256)),
)
"""Per subject, as the audit names it (`kind:id`): the newest order of each kind; it is refused as runs are."""

CHAINS = Table(
    "chains",
    METADATA,
    Column("chain", String(16), primary_key=True),
    Column("worker", String(64), nullable=False),
    Column("next_sequence", BigInteger, nullable=False),
    Column("prev", String(64)),
    Column("updated_at", BigInteger, nullable=False),
)
"""How far each chain is projected: what comes again is skipped, a gap is seen."""

FINDINGS = Table(
    "findings",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("fault", String(32), nullable=False),
    Column("chain", String(16)),
    Column("sequence", BigInteger),
    Column("detail", Text, nullable=False),
)
"""What was wrong with the audit as it was read."""
