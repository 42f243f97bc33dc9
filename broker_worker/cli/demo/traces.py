"""Finds traces of a value in bytes, whatever form it was written in."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping

SHORTEST = 12
"""Bytes that a value must have to be searched for: parts of a shorter one would be found by chance."""


def forms_of(value: bytes) -> Mapping[str, frozenset[bytes]]:
    """The byte strings of which one is there wherever the value was written: as it is, in base64 or hexadecimal.

    Base64 is searched for at each of the three places in a group of three bytes at which a value inside something
    longer may begin; the characters that neighbours have a share in are left out.

    Args:
        value: at least `SHORTEST` bytes.

    Returns:
        The byte strings by the name of the form.

    Raises:
        ValueError: if the value is too short.
    """
    if len(value) < SHORTEST:
        raise ValueError(f"a value to search for has at least {SHORTEST} bytes; this one has {len(value)}")
    inner = [_inner_base64(value, before) for before in range(3)]
    digits = value.hex().encode()
    return {
        "as it is": frozenset({value, value[::-1]}),
        "UTF-16": frozenset({b"".join(bytes((byte, 0)) for byte in value)[:-1]}),
        "base64": frozenset(inner) | {text.translate(bytes.maketrans(b"+/", b"-_")) for text in inner},
        "hexadecimal": frozenset({digits, digits.upper()}),
    }


def _inner_base64(value: bytes, before: int) -> bytes:
    encoded = base64.b64encode(bytes(before) + value)
    first = -(-before * 8 // 6)
    end = (before + len(value)) * 8 // 6
    return encoded[first:end]


class Search:
    """Counts traces of values over any number of byte strings.

    Args:
        values: what to look for.
    """

    def __init__(self, values: Iterable[bytes]) -> None:
        self.found: Counter[str] = Counter()
        """How many traces, by form."""
        self.size = 0
        """How many bytes were searched."""
        self._forms = [(form, text) for value in values for form, texts in forms_of(value).items() for text in texts]

    def __repr__(self) -> str:
        return f"Search(found={dict(self.found)}, size={self.size})"

    def look(self, data: bytes) -> None:
        """Search one byte string."""
        self.size += len(data)
        for form, text in self._forms:
            count = data.count(text)
            if count:
                self.found[form] += count
