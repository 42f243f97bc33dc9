"""Finding the line to publish next in a worker's files. Everything here may read much: call it off the loop."""

import re
from collections.abc import Sequence
from pathlib import Path

from broker_worker.audit.chain_files import ChainFile, Position, read_lines

_BLOCK = 256 * 1024
_LINES = 1024
_TIMESTAMP = re.compile(rb'"timestamp":"([^"]{24})"')


def position_after(files: Sequence[ChainFile], chain: str, sequence: int) -> Position | None:
    """The position after a line.

    Args:
        files: a worker's files, in order.
        chain: the line's chain.
        sequence: the line's position in it.

    Returns:
        Where the next line stands or will stand; None if the files end before that line.

    Raises:
        OSError: if a file cannot be read.
    """
    holding = [file for file in files if file.chain == chain and file.first <= sequence + 1]
    if holding:
        return _position_of(holding[-1], sequence + 1)
    later = next((file for file in files if (file.chain, file.first) > (chain, sequence)), None)
    return None if later is None else Position(later, 0, later.first)


def position_before(files: Sequence[ChainFile], end: Position, lines: int) -> Position:
    """The position that many lines before the end, or the first there is.

    Args:
        files: a worker's files, in order.
        end: where the next line will stand.
        lines: how many lines to go back.

    Raises:
        OSError: if a file cannot be read.
    """
    at = end
    for file in reversed(files):
        if (file.chain, file.first) > (end.file.chain, end.file.first):
            continue
        count = end.sequence - file.first if file == end.file else _count_lines(file.path)
        if count >= lines:
            return _position_of(file, file.first + count - lines)
        lines -= count
        at = Position(file, 0, file.first)
    return at


def skip_older(start: Position, end: Position, timestamp: str) -> Position:
    """The first position from `start` on whose line is not older than a time in the audit's form.

    Raises:
        OSError: if a file cannot be read.
    """
    limit = timestamp.encode()
    while start != end:
        lines, following = read_lines(start, end, _LINES)
        offset = start.offset
        for count, line in enumerate(lines):
            found = _TIMESTAMP.search(line)
            if found is not None and found[1] >= limit:
                return Position(start.file, offset, start.sequence + count)
            offset += len(line) + 1
        if following == start:
            return start
        start = following
    return start


def _position_of(file: ChainFile, sequence: int) -> Position:
    """Where a line stands in the file that holds it; the file's end if it is shorter."""
    offset, at = 0, file.first
    with file.path.open("rb") as stream:
        for line in stream:
            if at >= sequence or not line.endswith(b"\n"):
                break
            offset += len(line)
            at += 1
    return Position(file, offset, at)


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(_BLOCK), b""))
