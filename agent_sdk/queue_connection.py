"""One connection to the queue without streams or command objects: packed commands out, lists of replies in.

redis-py makes the connection (URL, TLS, login, database); then its socket is handed to the protocol here. What
arrives is parsed and passed on in the callback of the event loop that brought it, so that a reply costs neither a
task nor a future nor another turn of the loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from agent_sdk.errors import CredentialInvalid

_INCOMPLETE = object()


class QueueConnection(asyncio.Protocol):
    """A connection that writes packed commands and hands over the replies to them, in order.

    Args:
        take: takes replies, errors among them; what it raises ends the connection.
        fail: is told once why the connection ended, unless `close` ended it.
        writable: is told when the socket takes more, after it was full.
    """

    def __init__(
        self, take: Callable[[list[Any]], None], fail: Callable[[Exception], None], writable: Callable[[], None]
    ) -> None:
        self.full = False
        """Whether the socket takes no more now."""
        self.silent_since: float | None = None
        """The loop's time since which a reply is due; None if none is."""
        self._take = take
        self._fail = fail
        self._writable = writable
        self._due = 0
        self._ended = False
        self._time = asyncio.get_running_loop().time
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_INCOMPLETE
        )

    async def open(self, connection: AbstractConnection) -> None:
        """Connect and log in.

        Raises:
            RedisError: if the server cannot be reached or refuses the login.
            OSError: the same.
        """
        self._connection = connection
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        writer = connection._writer  # noqa: SLF001  # redis-py has no public way to its socket
        if writer is None:
            raise RedisConnectionError("the connection was closed while it was made")
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def send(self, packed: bytes, replies: int) -> None:
        """Write commands.

        Args:
            packed: their bytes.
            replies: how many replies they have.
        """
        if self._ended or self._transport is None:
            return
        if not self._due:
            self.silent_since = self._time()
        self._due += replies
        self._transport.write(packed)

    async def close(self) -> None:
        """Disconnect. Nothing is handed over afterwards."""
        self._ended = True
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Hand over the replies that are complete (`asyncio.Protocol`)."""
        if self._ended:
            return
        try:
            self._reader.feed(data)
            replies = []
            next_reply = self._reader.gets
            while (reply := next_reply(False)) is not _INCOMPLETE:
                replies.append(reply)
            if replies:
                self._due -= len(replies)
                self.silent_since = self._time() if self._due > 0 else None
                self._take(replies)
        except Exception as error:  # noqa: BLE001  # whoever uses the connection sees it
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Learn that the connection broke (`asyncio.Protocol`)."""
        self._end(error or RedisConnectionError("the server closed the connection"))

    def pause_writing(self) -> None:
        """Learn that the socket takes no more (`asyncio.Protocol`)."""
        self.full = True

    def resume_writing(self) -> None:
        """Learn that the socket takes more again (`asyncio.Protocol`)."""
        self.full = False
        if not self._ended:
            self._writable()

    def _end(self, error: Exception) -> None:
        if not self._ended:
            self._ended = True
            self._fail(error)


def connector(queue_url: str, shown_url: str) -> Callable[[], AbstractConnection]:
    """What makes redis-py's connections to a queue.

    Args:
        queue_url: `redis://`, `rediss://` or `unix://` with user and password.
        shown_url: the same without the password, for messages.

    Raises:
        CredentialInvalid: if the URL cannot be understood.
    """
    try:
        options: dict[str, Any] = dict(parse_url(queue_url))
    except ValueError:
        raise CredentialInvalid(f"run credential: queue_url {shown_url} cannot be understood") from None
    kind: Callable[..., AbstractConnection] = options.pop("connection_class", Connection)
    for ours in ("max_connections", "timeout", "decode_responses", "retry_on_timeout"):
        options.pop(ours, None)
    # A socket timeout would break the blocking read; the waits here have deadlines of their own.
    options |= {"socket_timeout": None, "socket_connect_timeout": 5.0, "protocol": 2, "driver_info": None}
    try:
        kind(**options)
    except (TypeError, ValueError, RedisError):
        raise CredentialInvalid(f"run credential: queue_url {shown_url} has options that are not known") from None
    return lambda: kind(**options)


def pack(*arguments: bytes) -> bytes:
    """The bytes of one command; hiredis packs four times as fast as redis-py."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub forgets the "..."
    return packed
