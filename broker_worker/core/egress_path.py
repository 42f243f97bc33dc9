"""Which paths a route covers, decided on the bytes that will be sent: what could mean two things is refused.

A proxy that matches one reading of a path and sends another to a server with its own reading is how a rule is passed
by. So nothing is normalised here. A target has one plain form, RFC 3986 section 3.3 without dot segments, empty
segments or encoded delimiters, and that form is both matched and sent.
"""

import re
from dataclasses import dataclass

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+", re.ASCII)
_QUERY = re.compile(r"[!-\"$-\[\]-~]*", re.ASCII)  # printable, without space, `#` and backslash
_HIDDEN = re.compile(r"%(?:[01][0-9a-f]|7f|2[ef5]|5c|c[01])", re.ASCII | re.IGNORECASE)
"""Encoded control characters, `.`, `/`, `%` and backslash, and the two octets that only overlong UTF-8 has."""
_DOTS = re.compile(r"\.{1,2}(?:;.*)?", re.ASCII)
MAX_TARGET = 8000
MAX_PATTERN = 256
ONE, MANY = "*", "**"


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks for: a path of segments, and the query as it was written (without `?`; None if none)."""

    segments: tuple[str, ...]
    query: str | None = None

    @property
    def path(self) -> str:
        """The path, as it was written."""
        return "/" + "/".join(self.segments)


def read_target(text: str) -> Target:
    """Read a request target in origin form (RFC 9112, section 3.2.1).

    Args:
        text: the target as it stood in the request line.

    Raises:
        ValueError: if it is in any other form, or its path could be read in two ways.
    """
    if len(text) > MAX_TARGET:
        raise ValueError(f"a target has at most {MAX_TARGET} characters")
    path, mark, query = text.partition("?")
    if _QUERY.fullmatch(query) is None:
        raise ValueError("the query has a character that must be encoded")
    return Target(read_segments(path), query if mark else None)


def read_segments(path: str) -> tuple[str, ...]:
    """Read a path.

    Raises:
        ValueError: if it is not absolute, or could be read in two ways.
    """
    if _PATH.fullmatch(path) is None:
        raise ValueError("expected a path that begins with `/`, in plain characters")
    if "%" in path and _HIDDEN.search(path) is not None:
        raise ValueError("a path must not have `.`, `/`, `%`, a backslash or control characters in encoded form")
    segments = tuple(path[1:].split("/"))
    if "" in segments[:-1]:
        raise ValueError("a path must not have an empty segment")
    if "/." in path and any(_DOTS.fullmatch(segment) for segment in segments):
        raise ValueError("a path must not have the segments `.` or `..`")
    return segments


@dataclass(frozen=True, slots=True)
class PathPattern:
    """Paths that a route covers: `*` stands for one whole segment, `**` at the end for one or more.

    Args:
        text: as the operator wrote it; it is what the audit names.
        segments: its parts.
    """

    text: str
    segments: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "PathPattern":
        """Read a pattern.

        Raises:
            ValueError: if it is not of that form.
        """
        if len(text) > MAX_PATTERN:
            raise ValueError(f"a path pattern has at most {MAX_PATTERN} characters")
        segments = read_segments(text)
        for place, segment in enumerate(segments):
            is_last = place == len(segments) - 1
            if "*" in segment and segment != ONE and not (segment == MANY and is_last):
                raise ValueError("`*` stands for one whole segment, and `**` for the last ones")
        return cls(text, segments)

    def matches(self, segments: tuple[str, ...]) -> bool:
        """Whether it covers a path."""
        mine = self.segments
        if mine[-1] == MANY:
            mine = mine[:-1]
            if len(segments) <= len(mine) or segments[len(mine)] == "":
                return False
            segments = segments[: len(mine)]
        return len(mine) == len(segments) and all(
            part == segment or (part == ONE and segment != "") for part, segment in zip(mine, segments, strict=True)
        )
