"""Bodies as the upstream encoded them, decoded so that they can be searched; a bomb is found piece by piece."""

import zlib
from collections.abc import Iterator

from broker_worker.egress.problems import Refusal

_PIECE = 64 * 1024
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_BROKEN = "the upstream's answer is not encoded as it says"


def encoding_refused() -> Refusal:
    """The answer's coding cannot be undone here."""
    return Refusal(502, "encoding_refused", "the upstream encoded its answer in a way that cannot be searched")


class Decoder:
    """Undoes one content coding (RFC 9110, section 8.4.1).

    Identity was asked for, so this is for servers that compress all the same; they all can `gzip`.

    Args:
        coding: the answer's `Content-Encoding`; None or empty for none.

    Raises:
        Refusal: if it is one that cannot be undone here, or several.
    """

    def __init__(self, coding: str | None) -> None:
        name = (coding or "identity").strip().lower()
        if name not in {"identity", "gzip", "x-gzip", "deflate"}:
            raise encoding_refused()
        self._bits = {"identity": 0, "deflate": _ZLIB}.get(name, _GZIP)
        self._stream = zlib.decompressobj(self._bits) if self._bits else None
        self._begun = False

    @property
    def is_identity(self) -> bool:
        """Whether bodies are as they came."""
        return self._stream is None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Decode what came, in pieces of a bounded size.

        Raises:
            Refusal: if it is not what the coding says.
        """
        if self._stream is None:
            yield chunk
            return
        for at in range(0, len(chunk), _PIECE):  # at each end of a member zlib copies what is left
            yield from self._undo(chunk[at : at + _PIECE])

    def _undo(self, chunk: bytes) -> Iterator[bytes]:
        stream, more = self._stream, True
        while stream is not None and (chunk or more):
            if stream.eof:  # another member (RFC 1952, section 2.2)
                stream = self._stream = zlib.decompressobj(self._bits)
            try:
                piece = stream.decompress(chunk, _PIECE)
            except zlib.error:
                raise Refusal(502, "upstream_broken", _BROKEN) from None
            self._begun = True
            chunk = stream.unconsumed_tail or stream.unused_data
            more = len(piece) == _PIECE and not stream.eof
            if piece:
                yield piece

    def finish(self) -> None:
        """Make sure that nothing is missing.

        Raises:
            Refusal: if the body ended before its coding did.
        """
        if self._stream is not None and self._begun and not self._stream.eof:
            raise Refusal(502, "upstream_broken", _BROKEN)
