"""The file of writes does not grow with what was written, but with what must be remembered of it."""

import os
from pathlib import Path
from typing import Literal

import pytest
from desk_workbench import NOW

from broker_worker.ports import WriteNote
from broker_worker.state import write_file as write_file_module
from broker_worker.state.write_file import REPEATED_MS, WriteFile


@pytest.mark.parametrize("end", ["written", "failed", "unknown"])
def test_what_needs_not_be_remembered_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Literal["written", "failed", "unknown"]
) -> None:
    """However many writes there are, and however they end: after an hour only the newest of each place counts."""
    monkeypatch.setattr(write_file_module, "PRUNE_AT", 20)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a disk's time is not what this is about
    path, now = tmp_path / "writes.jsonl", NOW
    file, rewritten = WriteFile(path, lambda: now), 0
    real = file._file.replace

    def counted(lines: list[bytes]) -> None:
        nonlocal rewritten
        rewritten += 1
        real(lines)

    monkeypatch.setattr(file._file, "replace", counted)
    for number in range(120):
        now = NOW + number * REPEATED_MS // 20
        note = WriteNote(f"{number:032x}", "begun", "a.b", f"local://{number % 3}", now, f"{number:064x}")
        file.note([note])
        file.note([WriteNote(note.write_id, end, "a.b", note.ref, now)])
        assert path.read_bytes().count(b"\n") < 2 * 20 + 3 + 2 * 20 + 40, number
    assert rewritten < 120 / 4
    assert WriteFile(path, lambda: now).poll() or end == "failed"
