"""Env files: `NAME=value` a line, as python-dotenv reads them, with interpolation off and every error named.

Quotes, values of several lines, `export`, CRLF, a byte order mark and comments are read as everywhere. Where
python-dotenv passes over what it cannot read, this refuses the file: half an environment is worse than none.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream

from agent_sdk.errors import InvalidRequest

MAX_BYTES: Final = 1024 * 1024
"""Longest env file that is read, in bytes."""


def read_env_file(path: Path) -> Mapping[str, str]:
    """The variables of an env file; of a name that is there twice the last one counts.

    Args:
        path: a file, or a pipe such as `<(…)` of a shell; it is read once.

    Raises:
        InvalidRequest: if it cannot be read, or with file and line, without what stands there.
    """
    raw = read_input(path, MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(f"{path}: longer than {MAX_BYTES} bytes; is it the right file?")
    return parse_env_file(raw, str(path))


def read_input(path: Path, size: int) -> bytes:
    """At most so many bytes of a file, or a pipe, that the command line names.

    Raises:
        InvalidRequest: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or 'not a file name'}") from None


def parse_env_file(raw: bytes, shown: str) -> Mapping[str, str]:
    """The variables that an env file's bytes define.

    Args:
        raw: its bytes, UTF-8.
        shown: its name in messages.

    Raises:
        InvalidRequest: with the name and the line, without what stands there.
    """
    text = _decode(raw, shown)
    variables: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text, newline="")):
        line = _line(binding)
        if binding.error:
            raise InvalidRequest(f"{shown}:{line}: expected NAME=value; is a quote missing?")
        if binding.key is None:
            continue
        if "=" in binding.key:
            raise InvalidRequest(f"{shown}:{line}: a name with an equals sign, which no environment can hold")
        if binding.value is None:
            raise InvalidRequest(f"{shown}:{line}: a name without a value; expected NAME=value")
        if "\0" in binding.key + binding.value:
            raise InvalidRequest(f"{shown}:{line}: a NUL byte, which no environment can hold")
        variables[binding.key] = binding.value
    return variables


def _decode(raw: bytes, shown: str) -> str:
    """Decode UTF-8. The decoding error holds the content, so it ends here."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
    raise InvalidRequest(f"{shown}:{line}: not UTF-8 text")


def _line(binding: Binding) -> int:
    """The line on which a binding begins: python-dotenv counts blank lines before it as its own."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())].replace("\r\n", "\n").replace("\r", "\n")
    return binding.original.line + blank.count("\n")
