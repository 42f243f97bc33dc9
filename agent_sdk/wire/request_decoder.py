"""Decodes requests of runs that ask again what they asked before, without reading all of it again.

Of two requests of one run for the same name only id and times differ. They stand in front, in one form with one
length; what follows, token and operation, is remembered as bytes together with what it was decoded to. So a request is
accepted here if and only if `decode_request` accepts it, and means the same.
"""

from collections import OrderedDict
from typing import Final

from agent_sdk.wire.messages import MAX_TIME, ListNames, Operation, Request, Resolve, decode_request

_ID: Final = b"\x85\xaarequest_id\xc4\x10"
_ISSUED: Final = b"\xa9issued_at\xcf"
_DEADLINE: Final = b"\xa8deadline\xcf"
"""Keys, each with the first byte of its value: 16 bytes, and twice an integer of 64 bits (msgpack spec, "Formats")."""
_AT_ID: Final = len(_ID)
_AT_ISSUED: Final = _AT_ID + 16
_AT_TIME: Final = _AT_ISSUED + len(_ISSUED)
_AT_DEADLINE: Final = _AT_TIME + 8
_AT_LAST: Final = _AT_DEADLINE + len(_DEADLINE)
_AT_REST: Final = _AT_LAST + 8
_LEAST_TIME: Final = 2**32
"""A smaller integer has a shorter form, which is then the canonical one."""
_LONGEST: Final = 4096
"""A rest that is longer is not remembered, bytes."""


class RequestDecoder:
    """Decodes requests, and remembers tokens and operations that were decoded.

    Operations that carry a value are not remembered.

    Args:
        limit: how many are remembered; the one that was added first is forgotten first.
    """

    def __init__(self, limit: int = 2048) -> None:
        self._limit = limit
        self._known: OrderedDict[bytes, tuple[str, Operation]] = OrderedDict()

    def decode(self, raw: bytes) -> Request:
        """Decode a request.

        Args:
            raw: the plaintext of an envelope that opened.

        Raises:
            WireError: as `decode_request` does.
        """
        known = self._known.get(raw[_AT_REST:])
        if known is None:
            return self._decode_whole(raw)
        issued_at = int.from_bytes(raw[_AT_TIME:_AT_DEADLINE], "big")
        deadline = int.from_bytes(raw[_AT_LAST:_AT_REST], "big")
        if (
            raw[:_AT_ID] != _ID
            or raw[_AT_ISSUED:_AT_TIME] != _ISSUED
            or raw[_AT_DEADLINE:_AT_LAST] != _DEADLINE
            or not _LEAST_TIME <= issued_at < deadline <= MAX_TIME
        ):
            return decode_request(raw)
        token, body = known
        return Request(raw[_AT_ID:_AT_ISSUED], issued_at, deadline, token, body)

    def _decode_whole(self, raw: bytes) -> Request:
        request = decode_request(raw)
        rest = raw[_AT_REST:]
        has_fixed_start = request.issued_at >= _LEAST_TIME  # and the deadline is later
        if has_fixed_start and isinstance(request.body, Resolve | ListNames) and len(rest) <= _LONGEST:
            self._known[rest] = request.token, request.body
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return request
