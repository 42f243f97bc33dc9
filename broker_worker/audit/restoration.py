"""Puts lines back that a crash left in a worker's write-ahead file only, before anything of its audit is judged.

After a power loss the end of the newest file may be missing, torn, or zeros. The round in the write-ahead is written
over it, from where its first line belongs: behind the line whose hash that one holds. Only what this broker signed is
taken, and never in the place of a line that continues the chain in another way.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent_sdk.wire.audit import AuditEvent, decode_line, line_hash, verify_checkpoint
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import WRITE_AHEAD_SUFFIX, ChainFile, iterate_lines, list_files
from broker_worker.audit.line_search import find_backward, hash_of_last_line, line_at
from broker_worker.audit.plain_file import SAFE_FLAGS, plain_file_status, sync_data


@dataclass(frozen=True, slots=True)
class _Round:
    """Consecutive lines of one chain, of which the last is a signed checkpoint."""

    lines: Sequence[bytes]
    events: Sequence[AuditEvent]


def restore_lines(folder: Path, worker: str, identity_public_key: bytes) -> int:
    """Write what the write-ahead's round has into the worker's newest file, and sync that file.

    Args:
        folder: the audit folder.
        worker: whose audit; nobody else writes it meanwhile.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.

    Returns:
        How many lines were missing or damaged there. The write-ahead is not needed any more.

    Raises:
        OSError: if a file cannot be read or written; the write-ahead must then stay.
    """
    try:
        found = _read_round(folder / f"{worker}{WRITE_AHEAD_SUFFIX}", worker, identity_public_key)
    except FileNotFoundError:
        return 0
    files = list_files(folder, worker)
    if not files:
        return 0
    place = None if found is None else _place_of(found.lines[0], found.events[0], files)
    with _opened(files[-1].path, os.O_RDWR) as file:
        restored = 0 if found is None or place is None else _write_round(file, place, found)
        file.flush()
        sync_data(file.fileno())  # what a process that was killed left in the page cache
    return restored


def _read_round(path: Path, worker: str, identity_public_key: bytes) -> _Round | None:
    """The lines of a write-ahead from its beginning on, as far as they are one chain, up to the last signed one."""
    lines: list[bytes] = []
    events: list[AuditEvent] = []
    with _opened(path, os.O_RDONLY) as file:
        for line, is_whole in iterate_lines(file, os.fstat(file.fileno()).st_size):
            event = _decoded(line) if is_whole else None
            if event is None or event.worker != worker or (lines and not _continues(event, events[-1], lines[-1])):
                break
            lines.append(line)
            events.append(event)
    while events and not verify_checkpoint(identity_public_key, events[-1]):
        events.pop()
        lines.pop()
    return _Round(lines, events) if lines else None


def _place_of(line: bytes, event: AuditEvent, files: Sequence[ChainFile]) -> int | None:
    """The offset in the newest file at which a line belongs; None if it does not continue what is there."""
    newest = files[-1]
    if event.chain != newest.chain or event.sequence < newest.first:
        return None
    if event.sequence == newest.first:
        before = files[-2] if len(files) > 1 and files[-2].chain == newest.chain else None
        return 0 if before is None or hash_of_last_line(before.path) == event.prev else None
    size = newest.path.stat().st_size
    found = find_backward(newest.path, f',"sequence":{event.sequence - 1},"prev":"'.encode(), size)
    if found < 0:
        return None
    start = find_backward(newest.path, b"\n", found) + 1
    previous = line_at(newest.path, start, size)
    end = start + len(previous) + 1
    return end if end <= size and line_hash(previous) == event.prev else None


def _write_round(file: BinaryIO, place: int, found: _Round) -> int:
    """Write the round at its place, also where it is already: a sync that failed may have left it off the disk."""
    file.seek(place)
    missing = 0
    for index, line in enumerate(found.lines):
        held, is_whole = next(iterate_lines(file, len(line) + 1), (b"", False))
        if not is_whole or held != line:
            missing = len(found.lines) - index
            file.seek(place + sum(map(len, found.lines[:index])) + index)
            if _holds_another(file, found, index):
                return 0
            break
    file.seek(place)
    file.write(b"\n".join(found.lines) + b"\n")
    return missing


def _holds_another(file: BinaryIO, found: _Round, index: int) -> bool:
    """Whether the file has a line here that continues the chain as well: then the round is older than the file."""
    line, is_whole = next(iterate_lines(file, os.fstat(file.fileno()).st_size - file.tell()), (b"", False))
    event = _decoded(line) if is_whole else None
    expected = found.events[index]
    return event is not None and (event.chain, event.sequence, event.prev) == (
        expected.chain,
        expected.sequence,
        expected.prev,
    )


def _continues(event: AuditEvent, previous: AuditEvent, line: bytes) -> bool:
    return (event.chain, event.sequence, event.prev) == (previous.chain, previous.sequence + 1, line_hash(line))


def _decoded(line: bytes) -> AuditEvent | None:
    try:
        return decode_line(line)
    except WireError:
        return None


def _opened(path: Path, mode: int) -> BinaryIO:
    descriptor = os.open(path, mode | SAFE_FLAGS)
    try:
        plain_file_status(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb" if mode == os.O_RDONLY else "r+b")
