"""One connection to the queue, without command objects: packed commands out, replies in.

redis-py's command objects cost more than the work that a worker does for a request, so the hot path uses its
`Connection` directly. Nothing is retried here: redis-py repeats a write whose reply was lost, which would run an
XADD twice.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from broker_worker.core.errors import QueueError

CONNECT_SECONDS = 5.0

Command = tuple[str | bytes | int, ...]


def pack(commands: Iterable[Command]) -> bytes:
    """The bytes of commands, packed by hiredis: redis-py's own packer takes four times as long."""
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub wants 1-tuples


class _BulkParser(_AsyncHiredisParser):
    """redis-py's parser, which can also hand over many replies at once: one call a batch instead of three a reply."""

    async def read_many(self, count: int) -> list[Any]:
        """The next `count` replies; error replies stand in their place."""
        replies: list[Any] = []
        reader: Any = self._reader
        while len(replies) < count:
            reply = reader.gets(False)
            if reply is NOT_ENOUGH_DATA:
                await self.read_from_socket()  # type: ignore[no-untyped-call]  # redis-py left it untyped
            else:
                replies.append(reply)
        return replies


class QueueConnection:
    """A connection that sends batches of commands and reads their replies in order.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user and password.
        name: the client name that the server shows.
    """

    def __init__(self, url: str, name: str) -> None:
        options: dict[str, Any] = {**parse_url(url)}
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._parser: _BulkParser | None = None
        self._connection = kind(
            **options,
            client_name=name,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
            parser_class=self._make_parser,  # type: ignore[arg-type]  # it is only called
        )
        self._sent = 0
        self._received = 0
        self.client_id = 0

    def _make_parser(self, socket_read_size: int) -> _BulkParser:
        self._parser = _BulkParser(socket_read_size)
        return self._parser

    async def open(self) -> None:
        """Connect and log in.

        Raises:
            QueueError: if the server cannot be reached or refuses the login.
        """
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py left it untyped
        except (RedisError, OSError) as error:
            if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
                raise QueueError(
                    "the queue refuses the broker's login", hint="compare its ACL file with `secret-broker acl`"
                ) from error
            raise QueueError(
                f"the queue cannot be reached: {error}", hint="is it running? `secret-broker doctor` tells more"
            ) from error
        self.client_id = await self.call("CLIENT", "ID")

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands in one write.

        Raises:
            QueueError: if the connection broke; whether the server got them is not known.
        """
        self._sent += len(commands)
        try:
            await self._connection.send_packed_command([pack(commands)])
        except (RedisError, OSError) as error:
            raise QueueError(f"the connection to the queue broke: {error}") from error

    async def receive(self) -> Any:
        """The next reply; an error reply is returned, not raised, so that the ones behind it stay in step.

        Raises:
            QueueError: if the connection broke.
        """
        (reply,) = await self.receive_many(1)
        return reply

    async def receive_many(self, count: int) -> list[Any]:
        """The next replies, in order, error replies among them.

        Raises:
            QueueError: if the connection broke.
        """
        try:
            if self._parser is None or not self._connection.is_connected:
                raise RedisConnectionError("it is closed")
            replies = await self._parser.read_many(count)
        except (RedisError, OSError) as error:
            raise QueueError(f"the connection to the queue broke: {error}") from error
        self._received += count
        return replies

    async def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and read their replies; error replies are returned in their place.

        Raises:
            QueueError: if the connection broke.
        """
        await self.send(commands)
        return await self.receive_many(len(commands))

    async def call(self, *command: str | bytes | int) -> Any:
        """Send one command and read its reply.

        Raises:
            QueueError: if the connection broke or the reply is an error.
        """
        (reply,) = await self.call_all([command])
        if isinstance(reply, ResponseError):
            raise QueueError(f"the queue refuses {command[0]!r}: {reply}")
        return reply

    async def guard(self, seconds: float) -> None:
        """Close the connection if a reply is due for longer than `seconds`; whoever waits for it then sees that.

        One task a connection is much cheaper than a timeout a reply.
        """
        while True:
            before = self._received
            waits = self._sent > before
            await asyncio.sleep(seconds)
            if waits and self._received == before:
                await self.close()

    async def close(self) -> None:
        """Disconnect; never raises."""
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)
