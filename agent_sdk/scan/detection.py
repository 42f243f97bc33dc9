"""Finds plaintext secrets in one text. Pure: no files, no clock, no settings.

The order is by cost. Runs of characters that could be a key are found in one pass, and what a run begins with chooses
the forms it is held against; a word such as `password` is looked for before anything is read around it. So a file
without either costs little more than reading it.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from agent_sdk.scan.key_formats import KEY_FORMATS, MIDDLES, KeyFormat
from agent_sdk.scan.match import Match
from agent_sdk.scan.named_values import find_named
from agent_sdk.scan.placeholders import is_filler
from agent_sdk.scan.shapes import (
    find_blocks,
    find_commands,
    find_headers,
    find_in_manifest,
    find_in_named_file,
    find_urls,
)

ALLOW: Final = b"secret-scan: allow"
"""A line with these words is let through."""
CODE: Final = frozenset(
    (
        b".py .pyi .pyx .js .jsx .mjs .cjs .ts .tsx .go .rs .java .kt .kts .scala .c .h .cc .cpp .cxx .hpp .cs .fs "
        b".vb .rb .erb .php .swift .m .mm .lua .pl .pm .ex .exs .erl .hs .ml .clj .dart .r .jl .zig .nim .groovy "
        b".sql .vue .svelte .html .htm .css .scss .less .proto .graphql .md .rst .adoc .tex .ipynb .sol .v .sv "
        b".vhd .asm .s .el .lisp .map .svg .pod .po .pot .diff .patch"
    ).split()
)
"""Endings of programs and prose. What is none of these is taken for a configuration."""
_RUN: Final = re.compile(rb"[A-Za-z0-9_.~-]{18,}")
_BOT: Final = re.compile(rb"[0-9]{8,10}:\Z")


def _by_beginning() -> dict[bytes, tuple[KeyFormat, ...]]:
    found: dict[bytes, list[KeyFormat]] = {}
    for form in KEY_FORMATS:
        for beginning in form.beginnings:
            found.setdefault(beginning[:2], []).append(form)
    return {key: tuple(dict.fromkeys(forms)) for key, forms in found.items()}


_FORMS: Final = _by_beginning()
_INSIDE: Final = tuple((middle, form) for middle, kind in MIDDLES.items() for form in KEY_FORMATS if form.kind == kind)


def find_secrets(text: bytes, file_name: str = "") -> list[Match]:
    """Find what stands in a text as plaintext secrets.

    Args:
        text: ASCII-compatible: UTF-8, Latin-1 or the like.
        file_name: the file's name, with or without its folders; it says whether the text is a program or a
            configuration. Without one it is a configuration.

    Returns:
        Matches by place, none within another. Lines with `secret-scan: allow` are left out.
    """
    name = file_name.replace("\\", "/").rpartition("/")[2].encode("utf-8", "surrogateescape")
    lowered = text.lower()
    found = list(_find_keys(text))
    if b"://" in text:
        found += find_urls(text)
    if b"-----BEGIN " in text:
        found += find_blocks(text)
    dot = name.rfind(b".")
    found += find_named(text, lowered, is_code=dot > 0 and name[dot:].lower() in CODE)
    found += find_headers(text, lowered)
    found += find_commands(text, lowered)
    found += find_in_named_file(text, name)
    if b"Secret" in text:
        found += find_in_manifest(text)
    return _without_allowed(text, _apart(found)) if found else found


def _find_keys(text: bytes) -> Iterator[Match]:
    for run in _RUN.finditer(text):
        start = run.start()
        before = text[start - 1 : start]
        starts = (start, start + 1) if before == b"\\" else (start, start + 2) if before == b"%" else (start,)
        for at in starts:
            head = text[at : at + 2]
            for form in _FORMS.get(head, ()) or _FORMS.get(head[:1], ()):
                yield from _key_at(text, at, form)
        for middle, form in _INSIDE:
            if middle in run[0]:
                found = form.form.search(text, *run.span())
                if found is not None:
                    yield from _key_at(text, found.start(), form)


def _key_at(text: bytes, at: int, form: KeyFormat) -> Iterator[Match]:
    found = form.form.match(text, at)
    if found is None or is_filler(found[0]) or (form.check is not None and not form.check(found[0])):
        return
    if form.kind == "telegram-token":
        bot = _BOT.search(text, max(0, at - 11), at)
        if bot is None:
            return
        at = bot.start()
    yield Match(form.kind, at, found.end(), is_specific=True)


def _apart(found: "Iterable[Match]") -> list[Match]:
    """Matches that do not overlap: what has a form of its own wins, then what is longer."""
    taken: list[Match] = []  # by place, none within another; so a match can overlap its two neighbours only
    for match in sorted(found, key=lambda each: (not each.is_specific, each.start - each.end, each.start)):
        at = bisect_left(taken, match.start, key=_start)
        is_free = (at == 0 or taken[at - 1].end <= match.start) and (at == len(taken) or match.end <= taken[at].start)
        if is_free:
            taken.insert(at, match)
    return taken


def _start(match: Match) -> int:
    return match.start


def _without_allowed(text: bytes, found: list[Match]) -> list[Match]:
    if ALLOW not in text:
        return found
    kept: list[Match] = []
    line_end, is_allowed = -1, False
    for match in found:  # by place, so each line is looked at once
        if match.start > line_end:
            line_start = text.rfind(b"\n", 0, match.start) + 1
            line_end = text.find(b"\n", match.start)
            line_end = len(text) if line_end < 0 else line_end
            is_allowed = text.find(ALLOW, line_start, line_end) >= 0
        if not is_allowed:
            kept.append(match)
    return kept
