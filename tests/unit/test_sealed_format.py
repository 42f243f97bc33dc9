"""The sealed cache's records: each opens under its own description and key only, and one sum stands for all."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed_workbench import BINDING, CANARY, NOW, record

from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.format import Head, Record, Row, Sealer, checked_row, empty_head, moved

SEALER = Sealer(bytes(range(32)))
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
TIME = st.integers(0, 2**53)
RECORDS = st.builds(
    Record, TEXT, st.none() | TEXT, TIME, TIME, st.binary(max_size=32), st.binary(min_size=1, max_size=600)
)


@given(RECORDS)
def test_what_was_sealed_opens(kept: Record) -> None:
    """Any reference, version, times and value come back as they were."""
    assert SEALER.open(SEALER.seal(kept)) == kept


@pytest.mark.parametrize(
    "changed",
    [
        {"ref": "op://Agents/other/credential"},
        {"version": "2"},
        {"version": None},
        {"fetched_at": NOW + 1},
        {"until": NOW + 400_000},
        {"binding": b"\x01" * 32},
        {"salt": bytes(16)},
        {"salt": b""},
        {"box": b""},
        {"box": bytes(24)},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_nothing_of_a_record_can_be_exchanged(changed: dict[str, object]) -> None:
    """A name, a version, an expiry or a part of the sealed text of another record does not open."""
    row = SEALER.seal(record())
    assert SEALER.open(row) == record()
    with pytest.raises(RefusedError):
        SEALER.open(row._replace(**changed))  # type: ignore[arg-type]  # each a field of the row with its type


@given(st.integers(0, 23 + 16 + 256 - 1), st.integers(0, 7))
def test_any_changed_bit_is_noticed(at: int, bit: int) -> None:
    """In the nonce, the ciphertext and the tag alike."""
    row = SEALER.seal(record())
    box = bytearray(row.box)
    box[at] ^= 1 << bit
    with pytest.raises(RefusedError):
        SEALER.open(row._replace(box=bytes(box)))


def test_another_master_key_opens_nothing() -> None:
    """Neither a record nor the head."""
    other = Sealer(bytes(32))
    with pytest.raises(RefusedError):
        other.open(SEALER.seal(record()))
    with pytest.raises(RefusedError):
        other.open_head(SEALER.seal_head(empty_head(1, NOW)))
    assert other.key_id != SEALER.key_id


def test_every_record_has_a_key_of_its_own() -> None:
    """The same record twice has nothing in common but its description, and its length says little."""
    one, two = SEALER.seal(record()), SEALER.seal(record())
    assert one.salt != two.salt
    assert not {one.box[at : at + 8] for at in range(len(one.box) - 8)} & {
        two.box[at : at + 8] for at in range(len(two.box) - 8)
    }
    assert len(one.box) == len(SEALER.seal(record(value=b"x")).box)
    assert CANARY not in one.box


@given(st.lists(st.tuples(RECORDS, st.booleans()), max_size=8))
def test_the_sum_is_that_of_what_is_there(steps: list[tuple[Record, bool]]) -> None:
    """Whatever was added and taken away again, in any order."""
    total, there = bytes(32), list[Row]()
    for kept, is_removed in steps:
        row = SEALER.seal(kept)
        total = moved(total, SEALER.mark(row), 0)
        if is_removed:
            total = moved(total, 0, SEALER.mark(row))
        else:
            there.append(row)
    assert total == moved(bytes(32), sum(map(SEALER.mark, reversed(there))), 0)


@given(st.binary(max_size=400))
def test_nothing_else_is_a_head(box: bytes) -> None:
    """Any other bytes are refused."""
    with pytest.raises(RefusedError):
        SEALER.open_head(box)


def test_head_opens_as_it_was() -> None:
    """Generation, count, sum and time."""
    head = Head(7, 3, os.urandom(32), NOW)
    assert SEALER.open_head(SEALER.seal_head(head)) == head


@pytest.mark.parametrize(
    "columns",
    [
        (),
        ("ref", None, 1, 2, BINDING, bytes(16)),
        ("ref", None, 1, 2, BINDING, bytes(16), "text"),
        (b"ref", None, 1, 2, BINDING, bytes(16), b""),
        ("ref", 1, 1, 2, BINDING, bytes(16), b""),
        ("ref", None, 1.0, 2, BINDING, bytes(16), b""),
        ("ref", None, None, 2, BINDING, bytes(16), b""),
        ("ref", None, True, 2, BINDING, bytes(16), b""),
    ],
)
def test_columns_of_other_types_are_refused(columns: tuple[object, ...]) -> None:
    """A file that somebody else wrote can hold anything in any column."""
    with pytest.raises(RefusedError, match="another form"):
        checked_row(columns)


def test_values_are_not_shown() -> None:
    """By no representation."""
    assert CANARY.decode() not in repr(record()) + repr(SEALER) + repr(SEALER.seal(record()))
