"""Fields of secrets that are JSON objects."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.aws_secret_fields import field_of, has_field, with_field

K = FailureKind
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def refusal(text: str, field: str = "a") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        field_of(text, field)
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "x", "b": "y"}', b"x"),
        ('{"a": "\\u00e9\\n"}', "é\n".encode()),
        ('{"a": "null"}', b"null"),
        ('{"a": "\\"\\""}', b'""'),
        ('{"a": 5432}', b"5432"),
        ('{"a": 1.10}', b"1.10"),
        ('{"a": 1e999}', b"1e999"),
        ('{"a": 123456789012345678901234567890}', b"123456789012345678901234567890"),
        ('{"a" :  true }', b"true"),
        ('{"a": "x", "b": {"a": 1}}', b"x"),
    ],
)
def test_a_text_is_its_characters_and_a_number_as_it_is_written(text: str, value: bytes) -> None:
    """Nothing is rounded, and no quotes come along."""
    assert field_of(text, "a") == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", K.NOT_FOUND),
        ('{"A": "x"}', K.NOT_FOUND),
        ('{"b": {"a": "x"}}', K.NOT_FOUND),
        ('{"a": ""}', K.NOT_FOUND),
        ('{"a": null}', K.NOT_FOUND),
        ('{"a": {"b": "hunter2"}}', K.BAD_REFERENCE),
        ('{"a": ["hunter2"]}', K.BAD_REFERENCE),
        ('{"a": "hunter2", "a": "x"}', K.AMBIGUOUS),
        ('{"a": "hunter2", "b": {"c": 1, "c": 2}}', K.AMBIGUOUS),
        ("", K.BAD_REFERENCE),
        ("hunter2", K.BAD_REFERENCE),
        ('["hunter2"]', K.BAD_REFERENCE),
        ('"hunter2"', K.BAD_REFERENCE),
        ('{"a": "hunter2"', K.BAD_REFERENCE),
        ('{"a": "hunter2",}', K.BAD_REFERENCE),
        ('{"a": NaN}', K.BAD_REFERENCE),
        ('{"a": "\\ud800"}', K.BAD_REFERENCE),
        ('{"a": "\ud800"}', K.BAD_REFERENCE),
        ('{"a": ' + "[" * 30_000 + "]" * 30_000 + "}", K.BAD_REFERENCE),
    ],
)
def test_what_is_no_field_is_told_apart(text: str, kind: FailureKind) -> None:
    """Each with its kind and what to do; nothing of the secret is repeated, not even in the chain of exceptions."""
    error = refusal(text)
    assert error.kind is kind
    assert error.hint
    assert "hunter2" not in f"{error!r}{error.hint}"


@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=4), st.text(max_size=4), st.text(min_size=1, max_size=20))
def test_a_field_that_was_put_is_read_back_and_the_others_stay(fields: dict[str, object], key: str, value: str) -> None:
    """Whatever else the object holds."""
    after = with_field(json.dumps(fields), key, value.encode())
    assert field_of(after, key) == value.encode()
    assert has_field(after, key)
    assert json.loads(after) == fields | {key: value}


def test_other_fields_stay_digit_by_digit() -> None:
    """A number that a float cannot hold is not rounded by writing another field."""
    before = '{"a": 1.10, "b": 1e999, "c": 123456789012345678901234567890, "d": {"x": 1.50}}'
    after = with_field(before, "new", b"x")
    assert after == '{"a":1.10,"b":1e999,"c":123456789012345678901234567890,"d":{"x": 1.50},"new":"x"}'


def test_bytes_that_are_no_text_cannot_be_a_field() -> None:
    """JSON holds text; the value is neither stored in another form nor repeated."""
    with pytest.raises(ProviderError, match="only text") as caught:
        with_field("{}", "a", b"hunter2\xff")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("text", ["hunter2", '{"b": "hunter2", "b": 1}'])
def test_nothing_is_put_into_what_cannot_be_read(text: str) -> None:
    """A secret that is no JSON object, or an ambiguous one, is not rewritten."""
    with pytest.raises(ProviderError) as caught:
        with_field(text, "a", b"x")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ProviderError):
        has_field(text, "a")
