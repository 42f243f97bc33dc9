"""One canonical msgpack encoding: whatever parses re-encodes to the same bytes.

A decoded value is encoded again and compared with what came in. That single rule refuses duplicate and reordered
keys, integers and lengths that are not minimal, spelled-out defaults and trailing bytes, with no list of cases to
keep complete. Unknown fields, wrong types, over-long strings and arrays are refused by the typed decoder, which
checks a declared length before it allocates; nesting is bounded by the types themselves.
"""

from typing import Generic, TypeVar

import msgspec

from agent_sdk.wire.errors import Code, WireError

MAX_ENVELOPE = 256 * 1024
"""Largest envelope, in bytes."""
MAX_PLAINTEXT = MAX_ENVELOPE - 4096
"""Largest padded plaintext, in bytes: leaves room for the envelope's own fields."""
PAD_BLOCK = 256
"""Plaintexts are padded to a multiple of this many bytes, so a length tells little about a value."""

_HARMLESS = ("Expected ", "Object missing ")
"""How those of msgspec's messages begin that name types, limits and our own fields only; others quote the input."""

T = TypeVar("T")


class Codec(Generic[T]):
    """Strict encoder and decoder of one message type.

    Args:
        kind: the msgspec type that is decoded.
        what: its name in error messages.
        max_bytes: refuse anything longer before reading it.
    """

    __slots__ = ("_decode", "_encode", "_max_bytes", "_what")

    def __init__(self, kind: type[T], what: str, max_bytes: int = MAX_PLAINTEXT) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._what = what
        self._max_bytes = max_bytes

    def encode(self, value: T) -> bytes:
        """Encode `value`.

        Raises:
            WireError: code `too_large` if the result exceeds the size cap.
        """
        raw = self._encode(value)
        if len(raw) > self._max_bytes:
            raise self._too_large(len(raw))
        return raw

    def decode(self, raw: bytes) -> T:
        """Decode `raw`, which must be the canonical encoding of a value of the type.

        Raises:
            WireError: `too_large` over the size cap, `invalid` for anything that is not canonical. The message
                names the place and the expectation, never the content.
        """
        if len(raw) > self._max_bytes:
            raise self._too_large(len(raw))
        problem = None
        try:
            value = self._decode(raw)
            again = self._encode(value)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError) as error:
            problem = explain(error, "not valid msgpack")
        if problem is not None:  # raised out here, so that no context keeps the bytes alive
            raise WireError(f"{self._what}: {problem}", reason="malformed")
        if again != raw:
            raise WireError(f"{self._what}: not in canonical encoding", reason="not_canonical")
        return value

    def _too_large(self, size: int) -> WireError:
        return WireError(
            f"{self._what} has {size} bytes; at most {self._max_bytes} are allowed",
            code=Code.TOO_LARGE,
            reason="too_large",
        )


def explain(error: Exception, otherwise: str) -> str:
    """What a decoder expected, and where, without a word of what it found there.

    Args:
        error: what the decoder raised.
        otherwise: what to say of anything but a value of the wrong type or size.
    """
    if not isinstance(error, msgspec.ValidationError):
        return otherwise
    text = str(error)
    if text.startswith(_HARMLESS):
        return text
    return "a field that is unknown or a value that is not among those allowed"


def pad(plaintext: bytes) -> bytes:
    """Append 0x80 and zeros up to a multiple of 256 bytes (ISO/IEC 7816-4)."""
    size = (len(plaintext) // PAD_BLOCK + 1) * PAD_BLOCK
    return (plaintext + b"\x80").ljust(size, b"\x00")


def unpad(padded: bytes) -> bytes:
    """Remove the padding of `pad`.

    Raises:
        WireError: if it is not exactly the padding that `pad` makes.
    """
    end = padded.rfind(b"\x80")
    size = (end // PAD_BLOCK + 1) * PAD_BLOCK
    if end < 0 or len(padded) != size or padded[end + 1 :] != bytes(size - end - 1):
        raise WireError("the sealed text has bad padding", reason="malformed")
    return padded[:end]
