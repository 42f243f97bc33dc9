"""Texts that agents choose are searched for values that are live."""

from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.redaction import MIN_LENGTH, NOTE, LiveValues

SECRETS = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8)


@given(SECRETS, st.text(max_size=20), st.text(max_size=20), st.text(min_size=MIN_LENGTH, max_size=20))
def test_no_text_with_a_live_value_in_it_passes(values: list[bytes], before: str, after: str, value: str) -> None:
    """Wherever in the text it stands, and whatever other values there are."""
    live = LiveValues()
    for each in [*values, value.encode("utf-8", "surrogatepass")]:
        live.add(each)
    assert live.redact(before + value + after) == NOTE


@given(SECRETS, st.text(max_size=40))
def test_a_text_without_a_live_value_is_left_alone(values: list[bytes], text: str) -> None:
    """Nothing is redacted for a resemblance."""
    live = LiveValues()
    for each in values:
        live.add(each)
    contains = any(len(v) >= MIN_LENGTH and v in text.encode("utf-8", "surrogatepass") for v in values)
    assert live.redact(text) == (NOTE if contains else text)
    assert live.redact(text) == (NOTE if contains else text), "the same when it is asked again"


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
