"""Env files: what python-dotenv reads, without interpolation, and every line that it would pass over refused."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_sdk.errors import InvalidRequest
from agent_sdk.run.env_file import MAX_BYTES, parse_env_file, read_env_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"A=1\nB = two words \n", {"A": "1", "B": "two words"}),
        (b"export A=1\r\n\r\nB='x # no comment'\r\n", {"A": "1", "B": "x # no comment"}),
        (b"\xef\xbb\xbfA=1", {"A": "1"}),
        (b'# a comment\nA="first\nsecond" # more\nB=2', {"A": "first\nsecond", "B": "2"}),
        (b"A=1\nA=2\n", {"A": "2"}),
        (b"A=\nB=\"\"\nC=''\n", {"A": "", "B": "", "C": ""}),
        (b"A=$HOME ${B}\n", {"A": "$HOME ${B}"}),
        (b"A=secret://openai.api_key # the key\n", {"A": "secret://openai.api_key"}),
        (b"A=url?x=1#part\n", {"A": "url?x=1#part"}),
        ('A="grüße\\n"\n'.encode(), {"A": "grüße\n"}),
        (b"", {}),
    ],
)
def test_what_is_usual_in_an_env_file_is_read(text: bytes, expected: dict[str, str]) -> None:
    """Quotes, several lines, export, CRLF, a byte order mark, comments; the last of a name; nothing interpolated."""
    assert parse_env_file(text, ".env") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'A=1\n\n\nB="sk-canary\n', r"^\.env:4: expected NAME=value; is a quote missing\?$"),
        (b"A=1\r\n\r\nsk-canary\r\n", r"^\.env:3: a name without a value"),
        (b"A=1\n'B=sk-canary'=2\n", r"^\.env:2: a name with an equals sign, which no environment can hold$"),
        (b'A="x" sk-canary\n', r"^\.env:1: expected NAME=value"),
        (b"A=1\n=sk-canary\n", r"^\.env:2: expected NAME=value"),
        (b"A=1\nB=\xffsk-canary\n", r"^\.env:2: not UTF-8 text$"),
        (b"A=sk-canary\0\n", r"^\.env:1: a NUL byte"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_line_and_without_its_text(text: bytes, expected: str) -> None:
    """Half an environment would be worse than none; what stands there may be a value."""
    with pytest.raises(InvalidRequest, match=expected) as caught:
        parse_env_file(text, ".env")
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_file_that_can_hardly_be_meant_is_refused(tmp_path: Path) -> None:
    """It is not read to its end."""
    path = tmp_path / "big"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidRequest, match="longer than 1048576 bytes; is it the right file"):
        read_env_file(path)


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text("A=\"'#\\\n\r x$", max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """Nothing else is raised."""
    variables: Mapping[str, str] = {}
    with suppress(InvalidRequest):
        variables = parse_env_file(text, ".env")
    assert all("\0" not in name + value for name, value in variables.items())
