"""Env files: single values are exchanged, and everything else stays byte for byte."""

import io

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_worker.core.errors import ConfigError
from broker_worker.files.env_file import EnvFile

_NAMES = st.sampled_from(["A", "B_KEY", "C1", "long_name"])
_SPACE = st.sampled_from(["", " ", "  ", "\t"])
_PLAIN = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)
_VALUES = st.one_of(
    _PLAIN,
    _PLAIN.map(lambda text: f'"{text} #\\n {text}"'),
    _PLAIN.map(lambda text: f"'{text}\n={text}'"),
    st.sampled_from(["", '""', "a#b", "a'b", '"x\\"y"', "ü ö", "$HOME", "a=b=c"]),
)
_EXPORT, _COMMENT = st.sampled_from(["", "export ", "  "]), st.sampled_from(["", " # note", "  ", "\t#x"])
_ASSIGNMENTS = st.tuples(_EXPORT, _NAMES, _SPACE, st.just("="), _SPACE, _VALUES, _COMMENT).map("".join)
_LINES = st.one_of(_ASSIGNMENTS, st.sampled_from(["", "# comment", "#A=1", "   ", "BARE"]))


@given(st.lists(_LINES, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_only_the_value_changes(lines: list[str], end: str, has_mark: bool, is_ended: bool) -> None:
    """Whoever reads the result with python-dotenv finds the reference, and all other values as they were."""
    text = end.join(lines) + (end if is_ended else "")
    raw = ("\ufeff" if has_mark else "").encode() + text.encode()
    file = EnvFile(raw, ".env")
    assert file.with_values({}) == raw
    changed = file.with_values({"B_KEY": "secret://b.key"}).decode("utf-8-sig")
    before = dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False)
    after = dotenv_values(stream=io.StringIO(changed, newline=""), interpolate=False)
    had = [each.name for each in file.settings]
    assert after == {**before, **({"B_KEY": after["B_KEY"]} if "B_KEY" in before else {})}
    if "B_KEY" in had:
        assert "secret://b.key" in changed


def test_quotes_comments_and_line_ends_stay() -> None:
    """Each form keeps how it is written."""
    raw = b"\xef\xbb\xbf# top\r\nexport A = 'x y'  # one\r\nB=\"1\\n2\"\r\nC=plain # two\r\nD='l1\nl2'\r\nE=e"
    values = {name: f"secret://{name.lower()}" for name in "ABCDE"}
    assert EnvFile(raw, ".env").with_values(values) == (
        b"\xef\xbb\xbf# top\r\nexport A = 'secret://a'  # one\r\nB=\"secret://b\"\r\nC=secret://c # two\r\n"
        b"D='secret://d'\r\nE=secret://e"
    )


def test_lines_are_numbered_as_in_an_editor() -> None:
    """Empty lines, comments and values of several lines count."""
    raw = b"\n\n# c\nA='1\n2'\n\nB=3\n"
    assert [(each.name, each.line) for each in EnvFile(raw, ".env").settings] == [("A", 4), ("B", 7)]


@pytest.mark.parametrize("raw", [b"A='open\nB=1\n", b"\xff\xfeA=1", b"A=\xe4", b"A=1\0", b"x" * (1024 * 1024 + 1)])
def test_what_cannot_be_read_without_doubt_is_refused(raw: bytes) -> None:
    """An open quote, another encoding, a binary or huge file; the error names the file and shows no value."""
    with pytest.raises(ConfigError) as caught:
        EnvFile(raw, ".env")
    assert str(caught.value).startswith(".env:")
    assert "open" not in str(caught.value)


def test_repr_shows_no_value() -> None:
    """A setting can be logged."""
    (setting,) = EnvFile(b"A=visible", ".env").settings
    assert "visible" not in repr(setting)
