"""What the ledger's tests share: stories told by several workers, their audit on disk, and tables to compare."""

import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from audit_workbench import IDENTITY, START, open_sink, read_log
from sqlalchemy import Engine, select

from agent_sdk.ledger import ChainAssembler, ChainFinding, ChainPosition, VerifiedLine
from agent_sdk.wire.audit import AuditRecord, format_time
from agent_sdk.wire.audit_stream import ChainSegment
from broker_worker.audit.chain_files import list_files
from broker_worker.ledger.database import migrate, open_database
from broker_worker.ledger.projection import Projection
from broker_worker.ledger.schema import METADATA
from broker_worker.private_files import create_private, make_private_folder

MINUTE = 60_000


def record(event: str = "access", at: int = 0, **fields: Any) -> AuditRecord:
    """One record of the run `claude/run-1`, `at` ms after the start of the test's time."""
    names: dict[str, Any] = {"agent_id": "claude", "run_id": "run-1"}
    if event == "access":
        names |= {"secret_name": "openai.api_key", "outcome": "granted", "action": "resolve", "policy": "0" * 64}
    for name in ("expires_at", "lease_ends"):
        if name in fields:
            fields[name] = format_time(START + fields[name])
    return AuditRecord(v=1, event=event, timestamp=format_time(START + at), **names | fields)  # type: ignore[arg-type]  # the fields are the tests' own


def lease(number: int) -> str:
    """The id of a lease."""
    return f"{number:032x}"


def story() -> dict[str, list[list[AuditRecord]]]:
    """What two workers recorded of two runs, in batches: leases, an approval, refusals, a revocation."""
    asked: dict[str, Any] = {"approval_id": "a" * 16, "secret_name": "db.password"}
    opened: dict[str, Any] = {
        "lease_id": lease(1),
        "version": "v7",
        "expires_at": 5 * MINUTE,
        "lease_ends": 60 * MINUTE,
    }
    first = [
        [record(at=0, uses=1, source="provider", task="nightly", issuer="local", **opened)],
        [
            record(at=1000, uses=2, source="cache", age_s=41, **opened),
            record(at=1100, outcome="refused", code="denied", reason="no_grant", secret_name="github.token"),
        ],
        [record("approval_requested", at=2000, approver="ops", purpose="deploy", expires_at=10 * MINUTE, **asked)],
        [record("approval_settled", at=5000, outcome="granted", reason="approved", approver="ana", **asked)],
        [
            record(
                at=6000,
                lease_id=lease(2),
                uses=1,
                source="stale",
                age_s=700,
                expires_at=5 * MINUTE,
                version="v1",
                **asked,
            ),
            record(
                "revoked", at=9000, agent_id=None, run_id=None, subject="run:claude/run-2", reason="x", approver="bo"
            ),
        ],
    ]
    second = [
        [record(at=500, run_id="run-2", lease_id=lease(3), uses=1, expires_at=5 * MINUTE, actor="egress/run-9")],
        [record("approval_decided", at=4000, outcome="granted", approver="ana", reason="fine", **asked)],
        [record(at=7000, action="renew", **{**opened, "expires_at": 20 * MINUTE})],
        [record(at=8000, action="release", lease_id=lease(2), secret_name="db.password")],
        [
            record(
                "revoked", at=9050, agent_id=None, run_id=None, subject="run:claude/run-2", reason="x", approver="bo"
            ),
            record("lease_ended", at=9060, run_id="run-2", lease_id=lease(3), secret_name="openai.api_key", reason="x"),
        ],
        [record("request_refused", at=9500, run_id="run-2", outcome="refused", code="revoked", reason="revoked")],
    ]
    return {"worker-1": first, "worker-2": second}


def write_story(folder: Path, batches: dict[str, list[list[AuditRecord]]] | None = None) -> None:
    """Write what workers recorded into an audit folder."""
    for worker, recorded in (batches or story()).items():
        sink = open_sink(folder, worker)
        for batch in recorded:
            sink.append(batch)
        sink.close()


def segments(folder: Path, size: int = 128) -> list[ChainSegment]:
    """The whole audit as the stream would carry it, `size` lines an entry."""
    cut: list[ChainSegment] = []
    for file in list_files(folder):
        lines = read_log(file.path)
        cut += [
            ChainSegment(file.chain, file.first + start, tuple(lines[start : start + size]))
            for start in range(0, len(lines), size)
        ]
    return cut


class Gathered:
    """Takes segments and keeps everything that comes of them."""

    def __init__(self, positions: Iterable[ChainPosition] = (), *, from_beginning: bool = True) -> None:
        self.assembler = ChainAssembler(IDENTITY, positions, from_beginning=from_beginning)
        self.lines: list[VerifiedLine] = []
        self.findings: list[ChainFinding] = []
        self.settled: list[str] = []

    def take(self, *taken: ChainSegment) -> "Gathered":
        """Take segments, each at a place named by its number."""
        for segment in taken:
            part = self.assembler.take(segment, str(id(segment)))
            self.lines += part.lines
            self.findings += part.findings
            self.settled += part.settled
        return self

    @property
    def ids(self) -> list[str]:
        """The ids of the events, in the order in which they came."""
        return [line.event.event_id for line in self.lines]

    @property
    def faults(self) -> list[str]:
        """What was found wrong."""
        return [finding.fault.value for finding in self.findings]


@cache
def _empty_ledger() -> bytes:
    """The file of a ledger whose tables were made; to make them takes a hundred times as long as to copy it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger" / "ledger.sqlite3"
        engine = open_database(f"sqlite:///{path}", writing=True)
        migrate(engine)
        engine.dispose()
        return path.read_bytes()


def fresh_ledger(path: Path) -> Engine:
    """A ledger in a SQLite file, its tables made; it is new unless there is one."""
    if not path.exists():
        make_private_folder(path.parent)
        create_private(path, _empty_ledger())
    return open_database(f"sqlite:///{path}", writing=True)


def project(engine: Engine, taken: Sequence[ChainSegment]) -> None:
    """Project segments one by one, each in a transaction of its own."""
    projection = Projection(engine)
    assembler = ChainAssembler(IDENTITY, projection.positions())
    for segment in taken:
        part = assembler.take(segment, "test")
        projection.apply(part.lines, part.findings, part.positions)


def tables(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a ledger says, without what depends on when it was made."""
    shown = {}
    with engine.connect() as connection:
        for table in METADATA.sorted_tables:
            columns = [column for column in table.columns if column.name not in ("position", "id", "updated_at")]
            if table.name != "findings":
                shown[table.name] = sorted(map(tuple, connection.execute(select(*columns))), key=repr)
    return shown


def rows(engine: Engine, name: str) -> list[dict[str, Any]]:
    """The rows of a table."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(METADATA.tables[name])).mappings()]
