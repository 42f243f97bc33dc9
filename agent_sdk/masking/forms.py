"""All the forms of a value that are looked for, and the values that cannot be looked for."""

import re
from collections.abc import Iterator
from typing import Final

from agent_sdk.masking.encoded_forms import LEAST_LINE, base64_ends, base64_runs, hex_forms
from agent_sdk.masking.text_forms import html_forms, json_forms, source_forms, url_forms

LEAST_VALUE: Final = 4
_LEAST_OF_ONE_CHARACTER: Final = 8
_SPACE: Final = b" \t\r\n"
# A line ends where one ends, or where one is escaped: a private key inside a JSON document.
_LINE_END: Final = re.compile(rb"(?:\r?\n|\\r|\\n)+")
# Lines of keys, YAML, JSON and INI files that say nothing of a secret and stand in much that is printed.
_HEADER: Final = re.compile(
    rb"-----(?:BEGIN|END) [A-Z0-9 ]+-----"
    rb"|(?:- )?\"?[\w.-]+\"?:\s*(?:[|>][-+]?|[\[{][\]}]?)?,?"  # a key whose value begins in the next line
    rb"|\[[\w. -]+\]"
    rb'|apiVersion: v1|kind: \w+|type: Opaque|"type": "service_account",?'
)
# They stand in nearly all that programs print, and are what anybody would guess first.
_COMMON: Final = frozenset(
    b"true false null none undefined default example test debug info localhost 127.0.0.1 0.0.0.0 root admin user guest "
    b"postgres mysql redis password passwd secret token changeme".split()
)


def can_be_masked(value: bytes) -> bool:
    """Whether masking a value protects something and leaves the rest readable.

    Not if it has fewer than four bytes without the space around it, is one of the words that stand in nearly all
    output, or fewer than eight times the same character.
    """
    core = _core(value)
    if len(core) < LEAST_VALUE or core.lower() in _COMMON:
        return False
    return len(set(core)) > 1 or len(core) >= _LEAST_OF_ONE_CHARACTER


def forms_of(value: bytes) -> frozenset[bytes]:
    """The forms of a value in which it is found.

    Args:
        value: one that can be masked.

    Returns:
        The value without the space around it, the same escaped and encoded, and so each of its lines.
    """
    core = _core(value)
    forms = {*_written(core), *_written_alone(core)}
    for line in _LINE_END.split(core):
        piece = line.strip(_SPACE)
        if len(piece) >= LEAST_LINE and piece != core and can_be_masked(piece) and not _HEADER.fullmatch(piece):
            forms.update(_written(piece))
    return frozenset(forms)


def _core(value: bytes) -> bytes:
    """A value without the space around it, which says nothing, if it is text."""
    return value.strip(_SPACE) if _text(value) is not None else value


def _written(value: bytes) -> Iterator[bytes]:
    """A value or a line of one, also inside other text."""
    yield value
    yield from base64_runs(value)
    yield from hex_forms(value)
    yield from url_forms(value)
    if (text := _text(value)) is not None:
        yield text.encode("utf-16-le")
        for forms in (json_forms, html_forms, source_forms):
            yield from (written.encode() for written in forms(text))


def _written_alone(value: bytes) -> Iterator[bytes]:
    """What more a whole value can look like."""
    yield from base64_ends(value)
    if (text := _text(value)) is not None:
        yield from base64_runs(text.encode("utf-16-le"))
        yield from base64_ends(text.encode("utf-16-le"))
        lines = value.replace(b"\r\n", b"\n")
        yield from (lines, lines.replace(b"\n", b"\r\n"))


def _text(value: bytes) -> str | None:
    """Decode UTF-8. The decoding error holds the value, so it ends here."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
