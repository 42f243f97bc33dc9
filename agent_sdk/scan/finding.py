"""A plaintext secret that was found: where it stands, and nothing of what it is."""

import hashlib
import hmac
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


def finding_of(match: Match, text: bytes, path: str, salt: bytes, commit: str = "") -> Finding:
    """What may be told of a match.

    Args:
        match: what was found.
        text: the text in which it was found.
        path: the file.
        salt: keys the fingerprint (HMAC, RFC 2104, with SHA-256).
        commit: the commit, of a scan of the history.
    """
    line_start = text.rfind(b"\n", 0, match.start) + 1
    before = text[line_start : match.start]
    try:
        column = len(before.decode())
    except UnicodeDecodeError:
        column = len(before)  # one byte a character, as in Latin-1
    value = text[match.start : match.end]
    return Finding(
        path=path,
        line=text.count(b"\n", 0, match.start) + 1,
        column=column + 1,
        kind=match.kind,
        fingerprint=hmac.new(salt, value, hashlib.sha256).hexdigest()[:32],
        commit=commit,
    )
