"""Verifies an audit folder: every chain of every worker, their heads, and what the stream knows of them."""

import stat
from collections.abc import Collection, Iterable
from itertools import groupby
from pathlib import Path

from agent_sdk.wire.audit_chain import Fault, Finding
from broker_worker.audit.anchors import Anchors, StreamEntry
from broker_worker.audit.chain_files import HEAD_SUFFIX, LOCK_SUFFIX, WRITE_AHEAD_SUFFIX, list_files, parse_name
from broker_worker.audit.report import Report
from broker_worker.audit.worker_check import WorkerCheck
from broker_worker.core.errors import AuditError, SetupError
from broker_worker.private_files import check_private


def verify_folder(
    folder: Path,
    identity_public_key: bytes,
    stream: Iterable[StreamEntry] | None = None,
    *,
    workers: Collection[str] = (),
    allow_pruned: bool = False,
) -> Report:
    """Verify all chains in a folder; memory does not grow with their length, and a broker may write meanwhile.

    Args:
        folder: the audit folder.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.
        stream: the entries of the audit stream, if it is to be compared: checkpoints on it must be in the files.
        workers: verify only these; empty for all.
        allow_pruned: whether the oldest files may be missing, because they were archived elsewhere.

    Raises:
        AuditError: if the folder cannot be read.
    """
    report = Report()
    try:
        folder = folder.resolve(strict=True)
        anchors = Anchors(identity_public_key)
        if stream is not None:
            anchors.take_stream(stream, report)
        _check_folder(folder, report)
        heads = {path.name.removesuffix(HEAD_SUFFIX): path for path in folder.glob(f"[!.]*{HEAD_SUFFIX}")}
        broken_heads = {worker for worker, path in heads.items() if not anchors.take_head(worker, path)}
        files = list_files(folder)
        by_worker = {worker: list(found) for worker, found in groupby(files, key=lambda file: file.worker)}
        for worker in sorted({*by_worker, *heads, *anchors.workers}):
            if workers and worker not in workers:
                continue
            known = anchors.chains_of(worker)
            check = WorkerCheck(identity_public_key, worker, known, report, allow_pruned=allow_pruned)
            check.run(by_worker.get(worker, []))
            head = folder / f"{worker}{HEAD_SUFFIX}"
            if worker in broken_heads or (check.has_checkpoints and not head.exists()):
                report.add(_head_missing(worker))
    except OSError as error:
        raise AuditError(
            f"cannot read the audit: {error.filename or folder}: {error.strerror}",
            hint="run it as the broker's user; name its home with --home, or the folder with --folder",
        ) from error
    return report


def _head_missing(worker: str) -> Finding:
    detail = "the last signed checkpoint of this worker is missing or unreadable, so a cut tail could go unnoticed"
    return Finding(Fault.NO_HEAD, worker + HEAD_SUFFIX, 0, None, detail)


def _check_folder(folder: Path, report: Report) -> None:
    """Check modes, and that there is nothing in the folder that does not belong there."""
    _check_mode(folder, ".", report)
    for path in sorted(folder.iterdir()):
        if path.name.endswith((HEAD_SUFFIX, LOCK_SUFFIX, WRITE_AHEAD_SUFFIX)) or path.name.startswith("."):
            continue
        if parse_name(path) is None:
            report.add(Finding(Fault.UNKNOWN_FILE, path.name, 0, None, "is no part of an audit"))
        else:
            _check_mode(path, path.name, report)


def _check_mode(path: Path, name: str, report: Report) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) and name != ".":
        report.add(Finding(Fault.PERMISSIONS, name, 0, None, "is not a plain file"))
        return
    try:
        check_private(path, status, "the audit's")
    except SetupError as error:
        report.add(Finding(Fault.PERMISSIONS, name, 0, None, f"{error} ({error.hint})"))
