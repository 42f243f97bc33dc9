"""A plaintext secret that was found: where it stands, and nothing of what it is."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent_sdk.scan.match import Match


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a plaintext secret stands.

    Args:
        path: the file, as it was named or from the folder that was named.
        line: from 1.
        column: from 1, in characters.
        kind: a stable name, `agent_sdk.scan.kinds.TITLES` describes it.
        fingerprint: tells equal values from others for whoever has the salt; 32 hexadecimal digits.
        commit: the first commit that has it, of a scan of the history.
    """

    path: str
    line: int
    column: int
    kind: str
    fingerprint: str = field(repr=False)
    commit: str = ""


def findings_of(matches: Iterable[Match], text: bytes, path: str, salt: bytes, commit: str = "") -> Iterator[Finding]:
    """What may be told of matches.

    Args:
        matches: what was found, by place.
        text: the text in which it was found.
        path: the file.
        salt: keys the fingerprints (HMAC, RFC 2104, with SHA-256).
        commit: the commit, of a scan of the history.
    """
    line, column, at, is_utf8 = 1, 1, 0, True
    for match in matches:  # each goes on where the one before stood, so that a long line is not counted again and again
        newlines = text.count(b"\n", at, match.start)
        if newlines:
            line, column, is_utf8 = line + newlines, 1, True
            at = text.rfind(b"\n", at, match.start) + 1
        try:
            column += len(text[at : match.start].decode()) if is_utf8 else match.start - at
        except UnicodeDecodeError:
            column, is_utf8 = (
                match.start - text.rfind(b"\n", 0, match.start),
                False,
            )  # a character a byte, as in Latin-1
        at = match.start
        value = text[match.start : match.end]
        fingerprint = hmac.new(salt, value, hashlib.sha256).hexdigest()[:32]
        yield Finding(path, line, column, match.kind, fingerprint, commit)
