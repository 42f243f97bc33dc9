"""Texts that agents choose are searched for values that are live."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.redaction import KEY_LIKE_NOTE, MIN_LENGTH, NOTE, LiveValues

SECRETS = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8)


@given(SECRETS, st.text(max_size=20), st.text(max_size=20), st.text(min_size=MIN_LENGTH, max_size=20))
def test_no_text_with_a_live_value_in_it_passes(values: list[bytes], before: str, after: str, value: str) -> None:
    """Wherever in the text it stands, and whatever other values there are."""
    live = LiveValues()
    for each in [*values, value.encode("utf-8", "surrogatepass")]:
        live.add(each)
    assert live.redact(before + value + after) == NOTE


@given(SECRETS, st.text(max_size=40).filter(lambda text: not re.search("[A-Za-z0-9]{16}", text)))
def test_a_text_without_a_live_value_is_left_alone(values: list[bytes], text: str) -> None:
    """Nothing is redacted for a resemblance."""
    live = LiveValues()
    for each in values:
        live.add(each)
    contains = any(len(v) >= MIN_LENGTH and v in text.encode("utf-8", "surrogatepass") for v in values)
    assert live.redact(text) == (NOTE if contains else text)
    assert live.redact(text) == (NOTE if contains else text), "the same when it is asked again"


def test_values_of_four_bytes_are_looked_for_and_shorter_ones_are_not() -> None:
    """As the threat model says."""
    live = LiveValues()
    for value in (b"7392", b"cat"):
        live.add(value)
    assert live.redact("the pin is 7392") == NOTE
    assert live.redact("a cat") == "a cat"


def test_a_value_that_is_no_longer_live_is_no_longer_looked_for() -> None:
    """One that is live twice is looked for until both are gone."""
    live = LiveValues()
    live.add(b"value-1")
    live.add(b"value-1")
    live.discard(b"value-1")
    assert live.redact("my value-1") == NOTE
    live.discard(b"value-1")
    live.discard(b"value-1")
    assert live.redact("my value-1") == "my value-1"


def test_a_text_that_was_clean_is_searched_again_for_a_new_value() -> None:
    """What was remembered as clean is forgotten with every new value."""
    live = LiveValues()
    live.add(b"other")
    assert live.redact("call value-2") == "call value-2"
    live.add(b"value-2")
    assert live.redact("call value-2") == NOTE


def test_short_values_are_not_looked_for() -> None:
    """They would occur by chance."""
    live = LiveValues()
    live.add(b"abc")
    assert live.redact("abc") == "abc"


def test_what_is_remembered_is_bounded() -> None:
    """However many different texts there are."""
    live = LiveValues()
    live.add(b"value")
    for number in range(5000):
        live.redact(f"purpose {number}")
    assert len(live._clean) <= 1024


def test_values_are_not_shown() -> None:
    """A repr tells how many there are."""
    live = LiveValues()
    live.add(b"value-1")
    assert repr(live) == "LiveValues(1 values)"


@pytest.mark.parametrize(
    "text",
    [
        "use sk-proj-4f9A2kLmQ81xZr7T please",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "x.5f2a9c31d7e84b06.y",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ],
)
def test_what_looks_like_a_key_is_not_recorded(text: str) -> None:
    """Even if this worker does not hold such a value: another one may have handed it out."""
    assert LiveValues().redact(text) == KEY_LIKE_NOTE


@pytest.mark.parametrize(
    "text",
    [
        "summarise the ticket OPS-1234567",
        "run 3f2504e0-4f89-11d3-9a0c-0305e82c3301 of 2026-11-21T19:04:19Z",
        "internationalisation of misunderstandings",
        "call 00441234567890123456",
        "",
    ],
)
def test_ordinary_words_numbers_dates_and_uuids_are_left_alone(text: str) -> None:
    """An operator wants to read what a request was for."""
    assert LiveValues().redact(text) == text
