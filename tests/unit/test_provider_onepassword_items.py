"""Places in 1Password, what they name in an item, and what a writer may expect of them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_conformance import CANARY, everything_said

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.onepassword_items import ItemPlace, Spot, StoredItem, is_id, text_of, value_of
from broker_worker.providers.onepassword_writing import check_expected

K = FailureKind
ITEM = StoredItem(
    "v" * 26,
    "i" * 26,
    3,
    {"s1": "Keys", "s2": "Keys", "s3": "Other", "Other": "fourth"},
    (
        Spot("password", "password", value="1"),
        Spot("f1", "password", "s1", value="2"),
        Spot("f2", "token", "s1", value="3"),
        Spot("f3", "token", "s3", value="4"),
        Spot("f4", "alone", "s3", value="5"),
        Spot("f5", "twice", value="6"),
        Spot("twice", "f5", value="7"),
    ),
)


def refusal(call: Callable[[], object]) -> FailureKind:
    """Why a call is refused; it must say what to do."""
    with pytest.raises(ProviderError) as caught:
        call()
    assert caught.value.hint or caught.value.kind is K.TOO_LARGE
    return caught.value.kind


@pytest.mark.parametrize(
    ("section", "field", "found"),
    [
        (None, "password", "1"),
        (None, "alone", "5"),
        (None, "f2", "3"),
        (None, "token", K.AMBIGUOUS),
        (None, "twice", K.AMBIGUOUS),
        (None, "Password", None),
        (None, "", None),
        ("s1", "password", "2"),
        ("s1", "token", "3"),
        ("s3", "token", "4"),
        ("s3", "password", None),
        ("Keys", "password", K.AMBIGUOUS),
        ("Other", "token", K.AMBIGUOUS),
        ("fourth", "token", None),
        ("none", "token", K.NOT_FOUND),
    ],
)
def test_a_place_names_one_field_or_none(section: str | None, field: str, found: object) -> None:
    """By label or id, as written; never one of several."""
    place = ItemPlace("v", "i", section, field)
    if isinstance(found, FailureKind):
        assert refusal(lambda: ITEM.find(place)) is found
        return
    spot = ITEM.find(place)
    assert (spot.value if spot else None) == found


def test_places_are_read_from_references() -> None:
    """With and without a section; an attribute names no place."""
    assert ItemPlace.of("a/b/c") == ItemPlace("a", "b", None, "c")
    assert ItemPlace.of("a/b/c/d") == ItemPlace("a", "b", "c", "d")
    assert refusal(lambda: ItemPlace.of("a/b/c?attribute=otp")) is K.BAD_REFERENCE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ionaiwtdvgclrixbt6ztpqcxnq", True),
        ("a" * 25, False),
        ("a" * 27, False),
        ("A" * 26, False),
        ("a" * 26 + "\n", False),
    ],
)
def test_ids_have_one_form(text: str, expected: bool) -> None:
    """26 lower-case letters and digits."""
    assert is_id(text) is expected


@given(st.binary(max_size=64))
def test_what_can_be_written_is_read_the_same(value: bytes) -> None:
    """Any text arrives as it was; nothing, and what is no UTF-8, is refused."""
    try:
        is_text = value.decode() != ""
    except UnicodeDecodeError:
        is_text = False
    if is_text:
        assert value_of(text_of(value)) == value
    else:
        assert refusal(lambda: text_of(value)) is K.UNKNOWN


def test_a_refused_value_is_not_repeated() -> None:
    """Neither as text nor as bytes."""
    value = CANARY.encode() + b"\xff"
    with pytest.raises(ProviderError) as caught:
        text_of(value)
    assert CANARY not in everything_said(caught.value)


def test_values_have_a_size() -> None:
    """128 KiB, in both directions; an empty field holds nothing."""
    largest = b"x" * (128 * 1024)
    assert value_of(text_of(largest)) == largest
    assert refusal(lambda: text_of(largest + b"x")) is K.TOO_LARGE
    assert refusal(lambda: value_of("x" * (128 * 1024 + 1))) is K.TOO_LARGE
    assert refusal(lambda: value_of("")) is K.NOT_FOUND


def test_no_value_in_what_can_be_printed() -> None:
    """Neither a field nor an item shows one."""
    item = StoredItem("v", "i", 1, {}, (Spot("a", "b", value="hunter2"),))
    assert "hunter2" not in repr(item)


@pytest.mark.parametrize(
    ("current", "expected", "fits"),
    [
        (None, None, True),
        ("3", None, True),
        (None, "", True),
        ("3", "", False),
        ("3", "3", True),
        ("3", "03", False),
        ("3", "2", False),
        (None, "3", False),
    ],
)
def test_expectations_are_met_or_a_conflict(current: str | None, expected: str | None, fits: bool) -> None:
    """None expects nothing, the empty text an empty place, anything else this very version."""
    if fits:
        check_expected(current, expected)
    else:
        assert refusal(lambda: check_expected(current, expected)) is K.CONFLICT
