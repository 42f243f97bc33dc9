"""Decodes requests of runs that ask again what they asked before, without reading all of it again.

Of two requests of one run for the same name only id and times differ. They stand in front, in one form with one
length; what follows, token and operation, is remembered as bytes together with what it was decoded to. So a request is
accepted here if and only if `decode_request` accepts it, and means the same.
"""

import struct
from collections import OrderedDict
from typing import Final

from agent_sdk.wire.messages import MAX_TIME, ListNames, Operation, Request, Resolve, decode_request

_ID: Final = b"\x85\xaarequest_id\xc4\x10"
_ISSUED: Final = b"\xa9issued_at\xcf"
_DEADLINE: Final = b"\xa8deadline\xcf"
"""Keys, each with the first byte of its value: 16 bytes, and twice an integer of 64 bits (msgpack spec, "Formats")."""
_START: Final = struct.Struct(f">{len(_ID)}s16s{len(_ISSUED)}sQ{len(_DEADLINE)}sQ")
_AT_REST: Final = _START.size
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
        key, request_id, second_key, issued_at, third_key, deadline = _START.unpack_from(raw)
        if (
            key != _ID
            or second_key != _ISSUED
            or third_key != _DEADLINE
            or not _LEAST_TIME <= issued_at < deadline <= MAX_TIME
        ):
            return decode_request(raw)
        token, body = known
        return Request(request_id, issued_at, deadline, token, body)

    def _decode_whole(self, raw: bytes) -> Request:
        request = decode_request(raw)
        rest = raw[_AT_REST:]
        has_fixed_start = request.issued_at >= _LEAST_TIME  # and the deadline is later
        if has_fixed_start and isinstance(request.body, Resolve | ListNames) and len(rest) <= _LONGEST:
            self._known[rest] = request.token, request.body
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return request
