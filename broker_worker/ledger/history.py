"""Reads the audit's files from where each chain is projected to their ends, as the stream would bring them."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final

from agent_sdk.ledger import ChainPosition
from agent_sdk.wire.audit import decode_line, line_hash
from agent_sdk.wire.audit_stream import MAX_SEGMENT_LINES, ChainSegment
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import ChainFile, iterate_lines, list_files

_PLACE: Final = re.compile(rb'"sequence":(0|[1-9][0-9]{0,15}),"prev":"[0-9a-f]{64}"\}$')


def read_history(folder: Path, positions: Mapping[str, ChainPosition]) -> Iterator[tuple[ChainSegment, str]]:
    """Yield what the files hold beyond some positions: consecutive lines and where they stand. Nothing is verified.

    Lines that a worker gave up, because they could not be made durable, are left out: nothing was released on them.

    Args:
        folder: the audit folder.
        positions: how far each chain is known.

    Raises:
        OSError: if the folder cannot be read.
    """
    for _, found in groupby(list_files(folder), key=attrgetter("worker")):
        chains = [list(files) for _, files in groupby(found, key=attrgetter("chain"))]
        for files, following in zip(chains, [*chains[1:], None], strict=True):
            link = None if following is None else _first_prev(following[0])
            yield from _read_chain(files, positions.get(files[0].chain), link)


def missing_beginnings(folder: Path, chains: Collection[str]) -> Sequence[str]:
    """Those of some chains whose first line is in no file of a folder: archived, or written on another host.

    Raises:
        OSError: if the folder cannot be read.
    """
    whole = {file.chain for file in list_files(folder) if file.first == 0}
    return sorted(set(chains) - whole)


def _read_chain(
    files: Sequence[ChainFile], position: ChainPosition | None, link: str | None
) -> Iterator[tuple[ChainSegment, str]]:
    start = 0 if position is None else position.next_sequence
    if position is not None and link == position.prev:
        return
    for file, following in zip(files, [*files[1:], None], strict=True):
        if following is not None and following.first <= start:
            continue
        for segment, place in _read_file(file, max(0, start - file.first)):
            lines = segment.lines if link is None else _up_to(segment.lines, link)
            yield ChainSegment(segment.chain, segment.first, tuple(lines)), place
            if link is not None and line_hash(lines[-1]) == link:
                return


def _read_file(file: ChainFile, skip: int) -> Iterator[tuple[ChainSegment, str]]:
    """Group the lines of a file into segments, each by the sequence that it states itself."""
    first, lines, begins = 0, list[bytes](), 1
    expected = file.first + skip
    with file.path.open("rb") as stream:
        for number, (line, is_whole) in enumerate(iterate_lines(stream, file.path.stat().st_size), 1):
            if number <= skip:
                continue
            if not is_whole:
                break
            found = _PLACE.search(line)
            sequence = int(found[1]) if found else expected
            if lines and (sequence != expected or len(lines) == MAX_SEGMENT_LINES):
                yield ChainSegment(file.chain, first, tuple(lines)), f"{file.path.name}:{begins}"
                lines = []
            if not lines:
                first, begins = sequence, number
            lines.append(line)
            expected = sequence + 1
    if lines:
        yield ChainSegment(file.chain, first, tuple(lines)), f"{file.path.name}:{begins}"


def _up_to(lines: Sequence[bytes], link: str) -> Sequence[bytes]:
    for count, line in enumerate(lines, 1):
        if line_hash(line) == link:
            return lines[:count]
    return lines


def _first_prev(file: ChainFile) -> str | None:
    """The hash with which a chain begins; None if its first line cannot be read."""
    with file.path.open("rb") as stream:
        for line, _ in iterate_lines(stream, file.path.stat().st_size):
            try:
                return decode_line(line).prev
            except WireError:
                return None
    return None
