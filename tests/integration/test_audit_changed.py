"""The audit's files changed, removed or moved away under the writer: noticed before anything is released."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_workbench import IDENTITY, access, open_sink, read_log, rewrite, runs_in, verified
from write_ahead_workbench import forget_names

from broker_worker.audit import plain_file
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import AuditError


def _remove(path: Path) -> None:
    path.unlink()


def _exchange(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.with_suffix(".gone"))
    path.write_bytes(content)
    path.chmod(0o600)


def _cut(path: Path) -> None:
    rewrite(path, read_log(path)[:-1])


def _grow(path: Path) -> None:
    rewrite(path, [*read_log(path), b"{}"])


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def test_a_folder_that_leads_elsewhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file keeps its own name then: what the way to it leads to is looked up again and again."""
    monkeypatch.setattr(plain_file, "LOOK_UP_NS", 0)
    folder, elsewhere = tmp_path / "audit", tmp_path / "elsewhere"
    for target in (tmp_path / "here", elsewhere):
        target.mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "here")
    sink = open_sink(folder)
    sink.append([access(1)])
    folder.unlink()
    folder.symlink_to(elsewhere)
    with pytest.raises(AuditError, match="was removed"):
        sink.append([access(2)])
    sink.append([access(3)])
    sink.close()
    assert runs_in(elsewhere) == ["run-3"]


def test_how_a_file_is_called_is_believed_for_a_second_only(
    written_sink: JsonlSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is not asked for with every batch, which would cost each a write more."""
    looked_up: list[object] = []
    real, now = os.stat, time.monotonic_ns()

    def stat_of(path: Any, **more: Any) -> os.stat_result:
        looked_up.append(path)
        return real(path, **more)

    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    written_sink.append([access(1)])
    monkeypatch.setattr(os, "stat", stat_of)
    for number in range(3):
        written_sink.append([access(number)])
    assert looked_up == []
    now += 1_000_000_000
    written_sink.append([access(9)])
    assert looked_up.count(written_sink.position.file.path) == 1


@pytest.mark.parametrize("change", [_remove, _exchange, _replace, _cut, _grow])
@pytest.mark.parametrize("has_names", [True, False])
def test_a_file_changed_under_the_writer_refuses_the_batch_and_starts_a_new_chain(
    written_sink: JsonlSink, audit_folder: Path, change: Callable[[Path], None], has_names: bool
) -> None:
    """Removal, exchange and another length are noticed before the batch is written; the broker then goes on."""
    if not has_names:
        forget_names(written_sink)
    change(written_sink.position.file.path)
    with pytest.raises(AuditError, match="cannot write the audit") as caught:
        written_sink.append([access(2)])
    assert "audit verify" in caught.value.hint
    written_sink.append([access(3)])
    written_sink.close()
    assert runs_in(written_sink.position.file.path) == ["run-3"]
    assert len({file.chain for file in list_files(audit_folder)}) == (1 if change is _remove else 2)
    if change is not _exchange:  # an exact copy in its place is no harm done
        assert not verify_folder(audit_folder, IDENTITY).ok


def test_a_folder_that_is_away_refuses_until_it_is_back(written_sink: JsonlSink, audit_folder: Path) -> None:
    """An unmounted disk refuses every batch; when it is back, so is the audit."""
    away = audit_folder.with_name("away")
    audit_folder.rename(away)
    for _ in range(2):
        with pytest.raises(AuditError):
            written_sink.append([access(2)])
    away.rename(audit_folder)
    written_sink.append([access(3)])
    written_sink.close()
    assert runs_in(audit_folder) == ["run-1", "run-3"]
    assert verified(audit_folder).chains == 2
