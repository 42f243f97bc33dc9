"""The audit of processes that die or meet real limits: what was acknowledged is on disk, whole and verifiable."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from audit_workbench import IDENTITY, access, open_sink, runs_in, verified

from broker_worker.audit.chain_files import list_files
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import SetupError

_WORKBENCH = Path(__file__).parent

_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from audit_workbench import access, open_sink
sink = open_sink(Path(sys.argv[2]), max_file_bytes=200_000)
number = 0
while True:
    sink.append([access(number + i) for i in range(20)])
    number += 20
    print(number, flush=True)
"""

_AHEAD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from audit_workbench import access, open_sink
sink = open_sink(Path(sys.argv[2]), write_ahead_bytes=8 * 1024 * 1024)
number = 0
while True:
    sink.append([access(number + i) for i in range(20)])
    number += 20
    print(number, flush=True)
"""

_LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from audit_workbench import access, open_sink
from broker_worker.core.errors import AuditError
sink = open_sink(Path(sys.argv[2]))
sink.append([access(1)])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (sink.position.offset + 700, hard))
try:
    sink.append([access(2), access(3), access(4)])
except AuditError as error:
    print(error)
print(sink.position.file.path.stat().st_size == sink.position.offset)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
sink.append([access(5)])
sink.close()
"""


@contextmanager
def running(script: str, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process with the audit's workbench at hand, killed at the end whatever happens."""
    arguments = [sys.executable, "-c", script, str(_WORKBENCH), str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("batches", [1, 7, 60])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, batches: int) -> None:
    """kill -9 under load: every acknowledged record is there, and a restart goes on without a gap."""
    folder = tmp_path / "audit"
    with running(_WRITER, folder) as process:
        assert process.stdout is not None
        acknowledged = 0
        for _ in range(batches):
            acknowledged = int(process.stdout.readline())
        with pytest.raises(SetupError, match="another process"):
            open_sink(folder)
        process.kill()
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    assert runs_in(folder)[:acknowledged] == [f"run-{number}" for number in range(acknowledged)]
    assert verify_folder(folder, IDENTITY).problems == []
    sink = open_sink(folder)
    sink.append([access(99)])
    sink.close()
    assert sink.recovery.broken == ""
    report = verified(folder)
    assert report.warnings == []
    assert report.chains == 1


@pytest.mark.parametrize("batches", [1, 40])
def test_a_killed_writer_whose_pages_are_lost_too_loses_nothing(tmp_path: Path, batches: int) -> None:
    """kill -9, and nothing of the chain's file reached the disk: the write-ahead has every acknowledged record."""
    folder = tmp_path / "audit"
    with running(_AHEAD, folder) as process:
        assert process.stdout is not None
        for _ in range(batches):
            acknowledged = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    os.truncate(list_files(folder)[-1].path, 0)
    sink = open_sink(folder)
    sink.close()
    assert sink.recovery.restored_lines >= acknowledged
    assert runs_in(folder)[:acknowledged] == [f"run-{number}" for number in range(acknowledged)]
    assert verified(folder).warnings == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_real_limit_tears_a_write_and_leaves_no_trace(tmp_path: Path) -> None:
    """The kernel takes a part of the batch and refuses the rest: the part is cut off, later batches go through."""
    folder = tmp_path / "audit"
    with running(_LIMITED, folder) as process:
        output, _ = process.communicate(timeout=90)
    assert output.splitlines() == ["cannot write the audit: File too large", "True"]
    assert runs_in(folder) == ["run-1", "run-5"]
    assert verified(folder).warnings == []
    assert len(list_files(folder)) == 1
