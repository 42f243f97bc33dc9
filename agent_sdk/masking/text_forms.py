"""How a value is written inside other text: escaped for URLs, JSON, HTML, Python and shells."""

import html
import json
import re
import shlex
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

# What encoders leave as it is besides the unreserved characters of RFC 3986, section 2.3: everything else encoded;
# Python's `quote`; `encodeURIComponent`; the user part, a segment, a path and a query (section 3); `encodeURI`.
_LEFT_BY_URL_ENCODERS: Final = (
    "",
    "/",
    "!'()*",
    "!$&'()*+,;=",
    "!$&'()*+,;=:@",
    "!$&'()*+,;=:@/",
    "!$&'()*+,;=:@/?",
    "!$&'()*+,;=:@/?#",
)
_PERCENT: Final = re.compile("%[0-9A-F]{2}")
_UNICODE_ESCAPE: Final = re.compile(r"\\u[0-9a-f]{4}")
_HTML_OF_QUOTE: Final = ("&#x27;", "&#39;", "&apos;")
_SHELL_SPECIAL: Final = re.compile(r"([^A-Za-z0-9_@%+=:,./\-])")


def url_forms(value: bytes) -> Iterator[bytes]:
    """A value percent-encoded (RFC 3986, section 2.1) and form-encoded, with upper- and lower-case digits."""
    written = {quote(value, safe=left) for left in _LEFT_BY_URL_ENCODERS}
    form = quote_plus(value, safe="*")
    written |= {quote_plus(value), form, form.replace("~", "%7E")}  # the last: WHATWG URL, form-urlencoded serializing
    for text in written:
        yield text.encode()
        yield _PERCENT.sub(lambda digits: digits[0].lower(), text).encode()


def json_forms(text: str) -> Iterator[str]:
    """What encoders make of a text inside a JSON string (RFC 8259, section 7), once and within JSON again."""
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    ascii_only = json.dumps(text)[1:-1]
    for written in (plain, ascii_only, _capital_escapes(ascii_only)):
        yield written
        yield written.replace("/", r"\/")  # PHP
        yield _escape_each("<>&", written)  # Go
        yield json.dumps(written)[1:-1]
    yield _capital_escapes(_escape_each("<>&'+`", ascii_only.replace(r"\"", r"\u0022")))  # .NET


def _escape_each(characters: str, text: str) -> str:
    return "".join(rf"\u{ord(character):04x}" if character in characters else character for character in text)


def _capital_escapes(text: str) -> str:
    return _UNICODE_ESCAPE.sub(lambda escape: rf"\u{escape[0][2:].upper()}", text)


def html_forms(text: str) -> Iterator[str]:
    """A text inside HTML or XML."""
    yield html.escape(text, quote=False)
    escaped = html.escape(text)
    for apostrophe in _HTML_OF_QUOTE:
        yield escaped.replace("&#x27;", apostrophe)
        yield escaped.replace("&quot;", "&#34;").replace("&#x27;", apostrophe)


def source_forms(text: str) -> Iterator[str]:
    """A text as Python's `repr` and shells show it, without the quotes around it."""
    yield repr(text)[1:-1]
    yield repr(text.encode())[2:-1]
    yield shlex.quote(text).removeprefix("'").removesuffix("'")
    yield text.replace("'", r"'\''")
    yield re.sub(r'([\\"$`])', r"\\\1", text)  # within double quotes
    yield _SHELL_SPECIAL.sub(r"\\\1", text)  # bash's %q
