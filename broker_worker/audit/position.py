"""Finding the line to publish next in a worker's files. Everything here may read much: call it off the loop."""

import re
from collections.abc import Sequence

from broker_worker.audit.chain_files import ChainFile, Position, read_lines

_BLOCK = 256 * 1024
_LINES, _BYTES = 1024, 1024 * 1024
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


def position_before(files: Sequence[ChainFile], end: Position, size: int) -> Position:
    """The first position from which on there are at most that many bytes up to the end.

    Args:
        files: a worker's files, in order.
        end: where the next line will stand.
        size: how many bytes to go back at most.

    Raises:
        OSError: if a file cannot be read.
    """
    at = end
    for file in reversed(files):
        if not size:
            break
        if (file.chain, file.first) > (end.file.chain, end.file.first):
            continue
        length = end.offset if file == end.file else file.path.stat().st_size
        if length > size:
            found = _position_from(file, length - size)
            return at if found.offset >= length else found
        size -= length
        at = Position(file, 0, file.first)
    return at


def skip_older(start: Position, end: Position, timestamp: str) -> Position:
    """The first position from `start` on whose line is not older than a time in the audit's form.

    Raises:
        OSError: if a file cannot be read.
    """
    limit = timestamp.encode()
    while start != end:
        lines, following = read_lines(start, end, _LINES, _BYTES)
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


def _position_from(file: ChainFile, offset: int) -> Position:
    """Where the first line stands that does not begin before an offset."""
    at, sequence, last = 0, file.first, b"\n"
    with file.path.open("rb") as stream:
        while at < offset and (block := stream.read(min(_BLOCK, offset - at))):
            at += len(block)
            sequence += block.count(b"\n")
            last = block[-1:]
        if last != b"\n":
            at += len(stream.readline())
            sequence += 1
    return Position(file, at, sequence)
