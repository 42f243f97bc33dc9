"""What the audit's tests share: an identity, a clock, records, and a log to tamper with."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nacl.bindings as sodium
import pytest

from agent_sdk.wire.audit import AuditRecord, decode_line, format_time
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.report import Report
from broker_worker.audit.sink import MAX_FILE_BYTES, JsonlSink
from broker_worker.audit.verify import verify_folder

SEED = bytes(range(32))
IDENTITY, SECRET = sodium.crypto_sign_seed_keypair(SEED)
START = 1_790_000_000_000


@dataclass
class TurnedClock:
    """A clock that stands still until a test turns it."""

    time: int = START

    def now(self) -> int:
        return self.time

    def monotonic_us(self) -> int:
        return self.time * 1000


def access(number: int = 0, *, at: int = START, purpose: str = "call the model") -> AuditRecord:
    """One granted name."""
    return AuditRecord(
        v=1,
        event="access",
        timestamp=format_time(at),
        agent_id="claude",
        run_id=f"run-{number}",
        secret_name="openai.api_key",
        outcome="granted",
        source="cache",
        action="resolve",
        purpose=purpose,
        rule="policy.yaml:12",
        latency_us=300,
    )


def open_sink(
    folder: Path, worker: str = "worker-1", *, max_file_bytes: int = MAX_FILE_BYTES, write_ahead_bytes: int = 256 * 1024
) -> JsonlSink:
    """The audit of one worker, with a small write-ahead file unless told otherwise."""
    return JsonlSink(
        folder, worker, SEED, TurnedClock(), max_file_bytes=max_file_bytes, write_ahead_bytes=write_ahead_bytes
    )


def write_log(folder: Path, batches: int, size: int = 2, worker: str = "worker-1", max_file_bytes: int = 10**9) -> Path:
    """Write batches of `size` records, close, and return the newest file."""
    sink = open_sink(folder, worker, max_file_bytes=max_file_bytes)
    for batch in range(batches):
        sink.append([access(batch * size + i) for i in range(size)])
    sink.close()
    return list_files(folder, worker)[-1].path


def read_log(path: Path) -> list[bytes]:
    """The lines of a file."""
    return path.read_bytes().split(b"\n")[:-1]


def rewrite(path: Path, lines: list[bytes]) -> None:
    """Put other lines in their place, as someone who tampers would."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def verified(folder: Path) -> Report:
    """The verification of the folder, which must be without problems."""
    report = verify_folder(folder, IDENTITY)
    assert report.problems == []
    return report


def runs_in(place: Path) -> list[str | None]:
    """The runs of all access records of a file, or of a folder's files, in order."""
    paths = [file.path for file in list_files(place)] if place.is_dir() else [place]
    events = [decode_line(line) for path in paths for line in read_log(path)]
    return [event.run_id for event in events if event.event == "access"]


@pytest.fixture
def audit_folder(tmp_path: Path) -> Path:
    """Where the audit goes."""
    return tmp_path / "audit"


@pytest.fixture
def audit_sink(audit_folder: Path) -> Iterator[JsonlSink]:
    """An open audit."""
    opened = open_sink(audit_folder)
    yield opened
    opened.close()


@pytest.fixture
def written_sink(audit_sink: JsonlSink) -> JsonlSink:
    """An open audit with one batch in it."""
    audit_sink.append([access(1)])
    return audit_sink
