"""Static tokens: for scripts that no launcher starts and that can hold one text and no key.

    sbt_<id>_<secret><checksum>      sbt_k3v7qd2x_ + 43 characters + 6 characters

The id, 8 characters of lower-case base32 (RFC 4648, section 6), is public: files, logs and commands name a token by it.
The secret is 32 random bytes as 43 digits to the base 62, so that a double click selects the whole. The checksum is the
CRC-32 of everything before it, 6 digits to the base 62: a slip of the pen is told from a token that is not known, and a
scanner of source code finds real ones and nothing else. It protects nothing.

The broker keeps the SHA-256 of the text and no slow password hash. Those buy time against guessing what people choose;
nobody guesses 256 random bits, however fast a guess is, and a slow hash would let anybody who sends rubbish busy a
worker.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from agent_sdk.wire.errors import Code, WireError

PREFIX: Final = "sbt_"
RUN_PREFIX: Final = "static-"
"""How the run of each static token begins, whose id follows; no identity token may name a run, or itself, like that."""
ENTROPY = 37
"""How many random bytes a token is made of: 5 for its id, 32 for its secret."""
_ID_BYTES, _SECRET_DIGITS, _CHECK_DIGITS = 5, 43, 6
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID: Final = re.compile(r"[a-z2-7]{8}", re.ASCII)
_FORM: Final = re.compile(r"sbt_([a-z2-7]{8})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What may be known of a static token by who does not hold it.

    Args:
        token_id: its public id, 8 characters.
        digest: the SHA-256 of its text, 32 bytes.
    """

    token_id: str
    digest: bytes


def mint(entropy: bytes) -> tuple[str, TokenRecord]:
    """Make a token.

    Args:
        entropy: 37 bytes of a cryptographic random source, used for nothing else.

    Returns:
        The token's text, which goes to its holder and nowhere else, and what the broker keeps.

    Raises:
        ValueError: if the entropy has another length.
    """
    if len(entropy) != ENTROPY:
        raise ValueError(f"a static token is made of {ENTROPY} random bytes, not of {len(entropy)}")
    token_id = base64.b32encode(entropy[:_ID_BYTES]).decode("ascii").lower()
    secret = _base62(int.from_bytes(entropy[_ID_BYTES:], "big"), _SECRET_DIGITS)
    head = f"{PREFIX}{token_id}_{secret}"
    text = head + _checksum(head)
    return text, TokenRecord(token_id, token_digest(text))


def parse(text: str) -> TokenRecord:
    """Read a token that somebody shows. Whether it is known, and whose it is, the broker's file says.

    Raises:
        WireError: `unauthenticated` if it is not of the form, or the checksum says that it was mistyped.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise _refuse("not of the form sbt_<id>_<secret>")
    if _checksum(text[:-_CHECK_DIGITS]) != match[3]:
        raise _refuse("its checksum is wrong: it was mistyped, or cut and pasted incompletely")
    return TokenRecord(match[1], token_digest(text))


def token_digest(text: str) -> bytes:
    """The SHA-256 of a token's text, 32 bytes: all that the broker keeps of it."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def is_token_id(text: str) -> bool:
    """Whether a text can be the id of a static token."""
    return _ID.fullmatch(text) is not None


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _DIGITS[digit] + text
    return text


def _checksum(head: str) -> str:
    return _base62(binascii.crc32(head.encode("ascii")), _CHECK_DIGITS)


def _refuse(message: str) -> WireError:
    return WireError(f"static token: {message}", code=Code.UNAUTHENTICATED, reason="bad_token")
