"""How a value is written in an alphabet of fewer characters: base64 and hexadecimal digits."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Final

# Fewer characters of base64 say less than the shortest value that is masked, and would be found by chance.
LEAST_BASE64: Final = 6
LEAST_LINE: Final = 8
_LINE_LENGTHS: Final = (64, 76)  # RFC 7468, section 2; RFC 2045, section 6.8 and coreutils
_HEX_LINE: Final = 60  # xxd -p
_ENDS: Final = (b"", b"\n", b"\r\n")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def hex_forms(value: bytes) -> Iterator[bytes]:
    """A value in hexadecimal digits, lower and upper case, in one piece and in the lines of `xxd -p`."""
    for digits in (value.hex().encode(), value.hex().upper().encode()):
        yield digits
        yield from _lines(digits, _HEX_LINE)


def base64_runs(value: bytes) -> Iterator[bytes]:
    """What a value alone decides of a longer text in base64 (RFC 4648, sections 4 and 5).

    A character of base64 is six bits, so a value begins at one of three places in a group of four characters. For each
    of them there is one run.
    """
    for before in range(3):
        yield from _both_alphabets(b64encode(bytes(before) + value)[_first(before) : 8 * (before + len(value)) // 6])


def base64_ends(value: bytes) -> Iterator[bytes]:
    """The same with what is behind it where the value, or a line end after it, is the end; and the text in lines."""
    for end in _ENDS:
        for before in range(3):
            text = b64encode(bytes(before) + value + end)[_first(before) :]
            yield from _both_alphabets(text)
            yield from _both_alphabets(text.rstrip(b"="))
        for length in _LINE_LENGTHS:
            for line in _lines(b64encode(value + end), length):
                yield from _both_alphabets(line)


def _first(before: int) -> int:
    """The first character that a value decides alone which begins behind so many bytes."""
    return -(-8 * before // 6)


def _both_alphabets(standard: bytes) -> Iterator[bytes]:
    if len(standard) >= LEAST_BASE64:
        yield standard
        yield standard.translate(_URL_SAFE)


def _lines(text: bytes, length: int) -> Iterator[bytes]:
    """A text that is broken into lines: as a whole, and each line."""
    if len(text) <= length:
        return
    lines = [text[start : start + length] for start in range(0, len(text), length)]
    yield b"\n".join(lines)
    yield b"\r\n".join(lines)
    yield from (line for line in lines if len(line) >= LEAST_LINE)
