"""What masking promises of every text, every set of values and every way to cut a stream."""

import base64
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_sdk.masking import Masker, search
from agent_sdk.masking.forms import can_be_masked, forms_of

FEW = settings(max_examples=60, deadline=None)
MASK = re.compile(rb"\[masked [ABC]\]")

# Few different bytes, so that values overlap and lie within each other.
VALUES = st.dictionaries(
    st.sampled_from("ABC"),
    st.lists(
        st.sampled_from([b"a", b"b", b"ab", b"\x00", b"%", b"\xff", b"aaaa", b"\nline1234\n"]), min_size=3, max_size=9
    ).map(b"".join),
    min_size=1,
)


def forms(values: Mapping[str, bytes]) -> dict[bytes, str]:
    """All forms of all values that can be masked."""
    named: dict[bytes, str] = {}
    for name, value in values.items():
        if can_be_masked(value):
            named |= {form: name for form in forms_of(value) if form not in named}
    return named


def covered(text: bytes, known: Mapping[bytes, str]) -> bytearray:
    """The plainest way to say which bytes are masked: 1 where a form is, or too much of one at the end."""
    marks = bytearray(len(text))
    for form in known:
        for at in range(len(text)):
            if text.startswith(form, at):
                marks[at : at + len(form)] = b"\x01" * len(form)
        for length in range(1, len(form)):
            if (length > 12 or 2 * length >= len(form)) and text.endswith(form[:length]):
                marks[-length:] = b"\x01" * length
    return marks


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, bytes], bytes, list[bytes]]:
    """Values, a text of forms, pieces of forms and other bytes, and the chunks in which it comes."""
    values = draw(VALUES)
    known = sorted(forms(values)) or [b"none"]
    parts: list[bytes] = []
    for form in draw(st.lists(st.sampled_from(known), max_size=6)):
        start, end = sorted(draw(st.tuples(st.integers(0, len(form)), st.integers(0, len(form)))))
        parts += [draw(st.sampled_from([form, form[start:], form[:end], b"ab" * 300])), draw(st.binary(max_size=3))]
    text = b"".join(parts)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return values, text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.fixture(params=[True, False], ids=["hyperscan", "plain"])
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both searches are held to the same."""
    if request.param and not search.HYPERSCAN:
        pytest.skip("the extra `masking` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "HYPERSCAN", request.param)
        yield


@pytest.mark.usefixtures("engine")
@FEW
@given(cases())
def test_exactly_the_bytes_of_forms_are_masked_however_the_stream_is_cut(
    case: tuple[dict[str, bytes], bytes, list[bytes]],
) -> None:
    """The output is the plainest masker's; nothing else is changed, and less than the longest form is held back."""
    values, text, chunks = case
    known = forms(values)
    found, shown = Masker(values), b""
    for chunk in chunks:
        shown += found.feed(chunk)
        assert len(found._held) < max(map(len, known), default=1)
    shown += found.flush()
    assert not found.pending
    assert shown == found.replace(text)
    marks = covered(text, known)
    assert MASK.sub(b"", shown) == bytes(byte for byte, mark in zip(text, marks, strict=True) if not mark)
    assert len(MASK.findall(shown)) <= marks.count(1)
    assert bool(found.finds(text)) == any(marks)
    assert {name for form, name in known.items() if form in text} <= set(found.finds(text))


@FEW
@given(cases(), st.data())
def test_silence_anywhere_lets_no_form_through(
    case: tuple[dict[str, bytes], bytes, list[bytes]], data: st.DataObject
) -> None:
    """With `flush` between any chunks, of no form more than a short beginning is shown."""
    values, _text, chunks = case
    found, shown = Masker(values), b""
    for chunk in chunks:
        shown += found.feed(chunk)
        if data.draw(st.booleans()):
            shown += found.flush()
    shown += found.flush()
    left = b"\xfe".join(MASK.split(shown))
    for form in forms(values):
        assert form not in left


@FEW
@given(st.binary(min_size=5, max_size=40), st.binary(max_size=7), st.binary(max_size=7))
@example(b"~~~??>>>", b"a", b"")
def test_no_encoding_of_a_text_around_a_value_shows_what_the_value_alone_decides(
    value: bytes, before: bytes, behind: bytes
) -> None:
    """Base64 of both alphabets, hexadecimal digits and percent-encoding, by encoders that know nothing of masking."""
    if not can_be_masked(value):
        return
    found = Masker({"A": value})
    text = value.strip() if value.isascii() else value
    whole = before + value + behind
    assert text.hex().encode() not in found.replace(whole.hex().encode())
    assert quote(text, safe="").encode() not in found.replace(quote(whole, safe="").encode())
    start = whole.index(text, len(before))
    first, end = -(-8 * start // 6), 8 * (start + len(text)) // 6
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        written = encode(whole)
        assert written[first:end] not in found.replace(written)
