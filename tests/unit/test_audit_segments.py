"""Segments of a chain in entries of the audit stream."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.audit import event_id
from agent_sdk.wire.audit_stream import (
    MAX_SEGMENT_BYTES,
    MAX_SEGMENT_LINES,
    ChainSegment,
    pack_segment,
    unpack_segment,
)
from agent_sdk.wire.errors import Code, WireError

CHAIN = "0123456789abcdef"
LINES = st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), min_size=1, max_size=MAX_SEGMENT_LINES)
GOOD = pack_segment(ChainSegment(CHAIN, 7, (b"{}", b"[]")))
NAMES = st.sampled_from([b"c", b"s", b"n", b"d", b"e", b""])
VALUES = st.binary(max_size=40) | st.sampled_from([*GOOD.values(), b"\n", b"-1", b"01", "\u0661".encode(), b"9" * 17])


@given(st.integers(0, 2**53 - 1 - MAX_SEGMENT_LINES), LINES)
def test_what_is_packed_unpacks_to_the_same_lines(first: int, lines: list[bytes]) -> None:
    """Lines survive the entry byte for byte, the empty one and those that are no text included."""
    segment = ChainSegment(CHAIN, first, tuple(lines))
    assert unpack_segment(pack_segment(segment)) == segment


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_fields_give_a_segment_or_a_wire_error(fields: dict[bytes, bytes], is_complete: bool) -> None:
    """Nothing on the stream raises anything else, and what unpacks packs to the same fields."""
    entry = {**GOOD, **fields} if is_complete else fields
    with contextlib.suppress(WireError):
        assert pack_segment(unpack_segment(entry)) == entry


@given(
    st.text(max_size=20) | st.just(CHAIN),
    st.integers(),
    st.lists(st.binary(max_size=9), max_size=MAX_SEGMENT_LINES + 2),
)
def test_only_what_unpacks_is_packed(chain: str, first: int, lines: list[bytes]) -> None:
    """A publisher cannot write an entry that its consumers refuse."""
    segment = ChainSegment(chain, first, tuple(lines))
    with contextlib.suppress(WireError):
        assert unpack_segment(pack_segment(segment)) == segment


@pytest.mark.parametrize(
    "lines",
    [(b"x" * (MAX_SEGMENT_BYTES + 1),), (b"",) * (MAX_SEGMENT_LINES + 1)],
    ids=["bytes", "lines"],
)
def test_an_entry_is_bounded(lines: tuple[bytes, ...]) -> None:
    """One byte or line more than a limit is too large."""
    with pytest.raises(WireError) as caught:
        pack_segment(ChainSegment(CHAIN, 0, lines))
    assert caught.value.code is Code.TOO_LARGE
    pack_segment(ChainSegment(CHAIN, 0, (lines[0][:-1],) if lines[0] else lines[1:]))


def test_a_line_with_a_line_feed_is_refused() -> None:
    """It would be read back as two."""
    with pytest.raises(WireError, match="n is 1, and there are 2 lines"):
        pack_segment(ChainSegment(CHAIN, 0, (b"a\nb",)))


def test_each_line_has_the_id_of_its_place() -> None:
    """A reader compares it with what the line says."""
    segment = unpack_segment(GOOD)
    assert list(segment.stated) == [(event_id(CHAIN, 7), b"{}"), (event_id(CHAIN, 8), b"[]")]
    assert segment.last == 8
