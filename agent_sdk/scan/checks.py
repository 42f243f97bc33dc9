"""Checks of what a key says of itself: checksums, and what decodes to something."""

import base64
import binascii
import json
import re
import zlib
from typing import Any, Final

_BASE62: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM: Final = 6
_BECH32: Final = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_EXAMPLE_JWT: Final = "1234567890"
"""The subject of the example that jwt.io shows."""
_BASIC: Final = re.compile(r"[^:\s]{1,128}:[^\s]{3,256}")
_CIPHER: Final = b"openssh-key-v1\x00\x00\x00\x00\x04none"


def base62_checksum(body: bytes) -> bytes:
    """The six digits that GitHub and npm put behind a token's random part: its CRC-32 in base 62."""
    rest, digits = zlib.crc32(body), bytearray()
    for _ in range(_CHECKSUM):
        rest, digit = divmod(rest, 62)
        digits.append(_BASE62[digit])
    return bytes(reversed(digits))


def has_base62_checksum(token: bytes) -> bool:
    """Whether a token such as `ghp_…` ends with the checksum of what stands between its prefix and it.

    GitHub's and npm's descriptions of their formats ("Behind GitHub's new authentication token formats", 2021).
    """
    body = token.partition(b"_")[2]
    return body[-_CHECKSUM:] == base62_checksum(body[:-_CHECKSUM])


def has_hex_crc32(token: bytes) -> bool:
    """Whether a token such as Grafana's `glsa_…` ends with the hexadecimal CRC-32 of what stands before."""
    body, _, sum_ = token.rpartition(b"_")
    return f"{zlib.crc32(body.partition(b'_')[2]):08x}".encode() == sum_.lower()


def is_bech32(key: bytes) -> bool:
    """Whether a key such as `AGE-SECRET-KEY-1…` has the checksum of Bech32 (BIP 173, "Checksum")."""
    human, _, data = key.lower().rpartition(b"1")
    values = [c >> 5 for c in human] + [0] + [c & 31 for c in human] + [_BECH32.find(c) for c in data]
    sum_ = 1
    for value in values:
        top = sum_ >> 25
        sum_ = (sum_ & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            sum_ ^= generator if top >> bit & 1 else 0
    return sum_ == 1 and min(values) >= 0


def unbase64(text: bytes) -> bytes:
    """What base64 or base64url decodes to, without padding too; nothing if it is neither."""
    try:
        return base64.b64decode(text.translate(_TO_STANDARD).rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4))
    except (binascii.Error, ValueError):
        return b""


_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(unbase64(text))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_jwt(token: bytes) -> bool:
    """Whether it is a signed token (RFC 7519, section 3), and neither an example nor a public one."""
    header, payload, _ = token.split(b".", 2)
    claims = _json(payload)
    is_public = claims.get("sub") == _EXAMPLE_JWT or claims.get("role") == "anon"  # Supabase's key for browsers
    return "alg" in _json(header) and bool(claims) and not is_public


def is_discord(token: bytes) -> bool:
    """Whether the first part decodes to a user's number, as in Discord's bot tokens."""
    number = unbase64(token.partition(b".")[0])
    return number.isdigit() and len(number) >= 17


def is_basic(text: bytes) -> bool:
    """Whether it decodes to `user:password` (RFC 7617, section 2)."""
    try:
        return _BASIC.fullmatch(unbase64(text).decode()) is not None
    except UnicodeDecodeError:
        return False


def is_encoded_key(text: bytes) -> bool:
    """Whether it decodes to a private key in PEM, as in `client-key-data` of a kubeconfig."""
    return is_plain_pem(unbase64(text[: len(text) // 4 * 4]))


def is_plain_pem(block: bytes) -> bool:
    """Whether a private key in PEM (RFC 7468) stands there as it is, and not encrypted."""
    head, _, body = block.partition(b"PRIVATE KEY")
    if not body or head.rstrip().endswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in body[:128]:
        return False
    if head.rstrip().endswith(b"OPENSSH"):
        letters = re.sub(rb"\\[nr]|[^A-Za-z0-9+/]", b"", body.lstrip(b" BLOCK-"))[:64]
        return unbase64(letters).startswith(_CIPHER)
    return True
