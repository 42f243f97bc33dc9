"""Where a run's reply stream was read up to: what to ask the queue next, and what its answer brings. No I/O."""

from typing import Any

from redis.exceptions import InvalidResponse

from agent_sdk.queue_connection import pack
from agent_sdk.wire.keynames import MESSAGE_FIELD

READ_COUNT = 512
BLOCK_MILLISECONDS = 5000
"""How long one read waits on the server; the position is checked again after it."""

_START = b"0-0"
_ENTRY = 2  # an entry is an id and its fields; a message has one field: a name and a value


class ReplyCursor:
    """Reads a stream from its end onwards, each entry once.

    Args:
        stream: the run's reply stream.
    """

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._position: bytes | None = None
        self._newest = pack(b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1")
        self.found = False
        """Whether the position is known to be right; if not, the next command finds it."""

    @property
    def block_seconds(self) -> float:
        """How long the server may wait before it answers the next command."""
        return BLOCK_MILLISECONDS / 1000 if self.found else 0.0

    def command(self) -> bytes:
        """The next command, packed."""
        if not self.found:
            return self._newest
        count, block = str(READ_COUNT).encode(), str(BLOCK_MILLISECONDS).encode()
        position = self._position or _START
        return pack(b"XREAD", b"COUNT", count, b"BLOCK", block, b"STREAMS", self._stream, position)

    def take(self, response: Any) -> list[bytes]:
        """Take the answer to the command.

        Returns:
            The messages that it brings.

        Raises:
            InvalidResponse: if it is no answer to that command.
        """
        if not self.found:
            self._find(_entries([[self._stream, response]])[0][0] if response else _START)
            return []
        if response is None:
            self.found = False
            return []
        entries = _entries(response)
        self._position = entries[-1][0]
        return [
            fields[1]
            for _, fields in entries
            if type(fields) is list
            and len(fields) == _ENTRY
            and fields[0] == MESSAGE_FIELD
            and type(fields[1]) is bytes
        ]

    def _find(self, newest: bytes) -> None:
        """Begin after the newest entry, or go on where reading stopped.

        A stream that ends before that position was recreated in between: all that is on it is new.
        """
        if self._position is None:
            self._position = newest
        elif _order(newest) < _order(self._position):
            self._position = _START
        self.found = True


def _entries(response: Any) -> list[tuple[bytes, Any]]:
    """The ids and fields of the one stream in an answer to XREAD."""
    try:
        ((_, entries),) = response
        found: list[tuple[bytes, Any]] = [(entry_id, fields) for entry_id, fields in entries]
        _order(found[-1][0])
    except (TypeError, ValueError, LookupError):
        raise InvalidResponse("the server's answer is not that of a stream") from None
    return found


def _order(entry_id: bytes) -> tuple[int, int]:
    if type(entry_id) is not bytes:
        raise TypeError("an entry's id is a byte string")
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
