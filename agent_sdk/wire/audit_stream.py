"""The audit on the stream `sb:audit`: consecutive lines of one chain in one entry (docs/protocol.md, "Audit").

An entry is packed and unpacked as a whole; its lines stay the bytes that are on disk. What a line says is another
matter: read each with `audit.decode_line`, whose `event_id` must be the one that the segment states for its place.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agent_sdk.wire.audit import event_id
from agent_sdk.wire.errors import Code, WireError

MAX_SEGMENT_LINES: Final = 128
"""How many lines an entry holds at most."""
MAX_SEGMENT_BYTES: Final = 96 * 1024
"""How many bytes they have together at most, with the line feeds between them."""
CHAIN_FIELD: Final = b"c"
FIRST_FIELD: Final = b"s"
COUNT_FIELD: Final = b"n"
LINES_FIELD: Final = b"d"
_FIELDS = frozenset({CHAIN_FIELD, FIRST_FIELD, COUNT_FIELD, LINES_FIELD})
_CHAIN = re.compile(rb"[0-9a-f]{16}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")
_MAX_SEQUENCE = 2**53 - 1


@dataclass(frozen=True, slots=True)
class ChainSegment:
    """Consecutive lines of one chain.

    Args:
        chain: the chain's id, 16 hexadecimal digits.
        first: the sequence of the first line.
        lines: without line feeds, as they are on disk; 1 to `MAX_SEGMENT_LINES`.
    """

    chain: str
    first: int
    lines: tuple[bytes, ...]

    @property
    def last(self) -> int:
        """The sequence of the last line."""
        return self.first + len(self.lines) - 1

    @property
    def stated(self) -> Iterator[tuple[str, bytes]]:
        """Each line behind the event id that it must have."""
        return ((event_id(self.chain, sequence), line) for sequence, line in enumerate(self.lines, self.first))


def pack_segment(segment: ChainSegment) -> dict[bytes, bytes]:
    """The fields of the stream entry that carries a segment.

    Raises:
        WireError: if it is empty, over a limit, or a line has a line feed in it.
    """
    lines = b"\n".join(segment.lines)
    fields = {
        CHAIN_FIELD: segment.chain.encode("utf-8", "replace"),
        FIRST_FIELD: b"%d" % segment.first,
        COUNT_FIELD: b"%d" % len(segment.lines),
        LINES_FIELD: lines,
    }
    _check(fields, lines.count(b"\n") + 1)
    return fields


def unpack_segment(fields: Mapping[bytes, bytes]) -> ChainSegment:
    """Read a stream entry back, strictly: what is unpacked packs to the same fields.

    Args:
        fields: the entry's fields as the server gave them.

    Returns:
        The segment; its lines are not read yet, and a hostile queue may have put anything there.

    Raises:
        WireError: if these are not exactly the fields of a segment, or it is over a limit.
    """
    if fields.keys() != _FIELDS:
        raise WireError("audit entry: expected exactly the fields c, s, n and d")
    lines = fields[LINES_FIELD].split(b"\n", MAX_SEGMENT_LINES)
    first = _check(fields, len(lines))
    return ChainSegment(fields[CHAIN_FIELD].decode("ascii"), first, tuple(lines))


def _check(fields: Mapping[bytes, bytes], lines: int) -> int:
    """Make sure that these can be the fields of an entry with so many lines; returns the first one's sequence."""
    size = len(fields[LINES_FIELD])
    if size > MAX_SEGMENT_BYTES:
        raise _too_large(f"audit entry has {size} bytes of lines; at most {MAX_SEGMENT_BYTES} are allowed")
    if lines > MAX_SEGMENT_LINES:
        raise _too_large(f"audit entry has more than the {MAX_SEGMENT_LINES} lines that are allowed")
    if not _CHAIN.fullmatch(fields[CHAIN_FIELD]):
        raise WireError("audit entry: c is not a chain's id")
    first, count = _number(fields[FIRST_FIELD], "s"), _number(fields[COUNT_FIELD], "n")
    if count != lines:
        raise WireError(f"audit entry: n is {count}, and there are {lines} lines")
    if first + count - 1 > _MAX_SEQUENCE:
        raise WireError("audit entry: its lines lie beyond the last sequence that there is")
    return first


def _too_large(message: str) -> WireError:
    return WireError(message, code=Code.TOO_LARGE, reason="too_large")


def _number(text: bytes, field: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise WireError(f"audit entry: {field} is not a number in its shortest form")
    return int(text)
