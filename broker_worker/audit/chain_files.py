"""The files of the audit: how they are named, which there are, and reading lines from a position on.

A chain is a row of files `<worker>-<chain>-<first sequence>.jsonl`. A worker's chains follow each other in the order
of their ids, which begin with the time of their making. Beside them stand `<worker>.head`, the last signed
checkpoint, `<worker>.wal`, the newest lines once more, and `<worker>.lock`, held by the one process that writes.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent_sdk.wire.audit import MAX_LINE

_NAME = re.compile(r"(?P<worker>[a-z0-9._-]{1,64})-(?P<chain>[0-9a-f]{16})-(?P<first>[0-9]{12,16})\.jsonl", re.ASCII)
_BLOCK = 256 * 1024
HEAD_SUFFIX = ".head"
LOCK_SUFFIX = ".lock"
WRITE_AHEAD_SUFFIX = ".wal"


@dataclass(frozen=True, slots=True)
class ChainFile:
    """One file of a chain.

    Args:
        path: where it is.
        worker: who writes it.
        chain: the chain's id.
        first: the sequence of its first line.
    """

    path: Path
    worker: str
    chain: str
    first: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a line stands or will stand.

    Args:
        file: the file.
        offset: bytes before the line.
        sequence: the line's position in its chain.
    """

    file: ChainFile
    offset: int
    sequence: int


def chain_file(folder: Path, worker: str, chain: str, first: int) -> ChainFile:
    """The file of a chain that begins with the line `first`."""
    return ChainFile(folder / f"{worker}-{chain}-{first:012d}.jsonl", worker, chain, first)


def parse_name(path: Path) -> ChainFile | None:
    """What a file's name says, or None if it is not that of a chain's file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    return ChainFile(path, match["worker"], match["chain"], int(match["first"]))


def list_files(folder: Path, worker: str | None = None) -> list[ChainFile]:
    """The plain files of all chains, or of one worker's, in the order in which their lines were written.

    Raises:
        OSError: if the folder cannot be read.
    """
    found = [file for file in map(parse_name, folder.iterdir()) if file is not None]
    if worker is not None:
        found = [file for file in found if file.worker == worker]
    plain = [file for file in found if file.path.is_file()]
    return sorted(plain, key=lambda file: (file.worker, file.chain, file.first))


def new_chain_id(after: str | None) -> str:
    """A chain id that no other chain has and that sorts after `after`: seconds since the epoch and 32 random bits."""
    made = (int(time.time()) % 2**32 << 32) | int.from_bytes(os.urandom(4), "big")
    if after is not None:
        made = max(made, int(after, 16) + 1)
    return f"{made:016x}"


def iterate_lines(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a file up to `size` bytes, without line feeds and in constant memory.

    Yields:
        Each line and whether it is whole: the last may lack its line feed, and of one that is longer than any audit
        line only the beginning is given.
    """
    left = size
    while left > 0:
        line = file.readline(min(MAX_LINE + 1, left))
        if not line:
            return
        left -= len(line)
        if line.endswith(b"\n"):
            yield line[:-1], True
            continue
        rest = b""
        while left > 0 and not rest.endswith(b"\n"):
            rest = file.readline(min(_BLOCK, left))
            if not rest:
                break
            left -= len(rest)
        yield line, rest.endswith(b"\n")


def read_lines(start: Position, end: Position, max_lines: int, max_bytes: int) -> tuple[Sequence[bytes], Position]:
    """Read whole lines from a position on, at most to the end of its file.

    Args:
        start: where the first line stands.
        end: how far the writer has come; nothing behind it is read.
        max_lines: how many at most.
        max_bytes: how many bytes they have at most, with their line feeds; a longer line is as if it was not there.

    Returns:
        The lines and the position after them; when a file that is no longer written is used up, the beginning of the
        next file.

    Raises:
        OSError: if the file cannot be read.
    """
    is_last = start.file == end.file
    limit = max(0, min(max_bytes, end.offset - start.offset)) if is_last else max_bytes
    with start.file.path.open("rb", buffering=0) as file:
        file.seek(start.offset)
        block = file.read(limit)
    lines = block[: block.rfind(b"\n") + 1].split(b"\n", max_lines)[:-1][:max_lines]
    if lines:
        taken = sum(map(len, lines)) + len(lines)
        return lines, Position(start.file, start.offset + taken, start.sequence + len(lines))
    if is_last:
        return (), start
    return (), _next_file(start, end)


def _next_file(start: Position, end: Position) -> Position:
    """The beginning of the file after `start`'s; `end`'s own if there is none between."""
    files = list_files(start.file.path.parent, start.file.worker)
    key = (start.file.chain, start.file.first)
    following = next((f for f in files if (f.chain, f.first) > key), end.file)
    return Position(following, 0, following.first)
