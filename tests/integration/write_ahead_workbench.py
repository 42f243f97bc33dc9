"""What tests of the audit's write-ahead share: crashes, restarts, and system calls that fail."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from audit_workbench import access, open_sink

from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink

WORKER = "worker-1"
SLOW = "the audit's write-ahead file cannot be used; syncing the audit itself"


def wal(folder: Path) -> Path:
    """The write-ahead file."""
    return folder / f"{WORKER}.wal"


def unsynced(sink: JsonlSink) -> int:
    """How many bytes at the end of the chain's file only the write-ahead is known to have."""
    assert sink._write_ahead is not None
    return len(sink._write_ahead.read())


def forget_names(sink: JsonlSink) -> None:
    """As on a system that does not say what an open file is called now: the files' own status is asked for."""
    assert sink._journal is not None
    assert sink._write_ahead is not None
    sink._journal._file._name = sink._write_ahead._file._name = None


def crashed(folder: Path, keep: int | None = None) -> Path:
    """What a crash leaves: a copy, its newest file cut to `keep` bytes as if the other pages were never written."""
    copy = folder.with_name(f"{folder.name}-crashed")
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".*"))  # a head that is just being written
    newest = list_files(copy, WORKER)[-1].path
    if keep is not None:
        os.truncate(newest, keep)
    return copy


def restarted(folder: Path) -> str:
    """What a restart says was out of the ordinary; it writes one more batch."""
    sink = open_sink(folder)
    sink.append([access(99)])
    sink.close()
    return str(sink.recovery)


@contextmanager
def failing(call: str, error: int, path: Path, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A system call that fails for one file, named by its descriptor or its path; `before` is what happens first."""
    real, target = getattr(os, call), path.stat().st_ino

    def fail(file: Any, *arguments: Any) -> Any:
        is_target = os.fstat(file).st_ino == target if isinstance(file, int) else Path(file) == path
        if is_target:
            before()
            raise OSError(error, os.strerror(error))
        return real(file, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


@pytest.fixture
def ahead_sink(audit_folder: Path) -> Iterator[JsonlSink]:
    """An open audit with two batches that are durable in the write-ahead only."""
    opened = open_sink(audit_folder)
    opened.append([access(1)])
    opened.append([access(2)])
    yield opened
    opened.close()
