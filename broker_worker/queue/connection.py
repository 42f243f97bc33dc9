"""One connection to the queue, without command objects: packed commands out, replies in.

redis-py's command objects cost more than the work that a worker does for a request, so the hot path uses its
`Connection` directly. Nothing is retried here: redis-py repeats a write whose reply was lost, which would run an
XADD twice.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from hiredis import Reader, pack_command
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from broker_worker.core.errors import QueueError

CONNECT_SECONDS = 5.0
_INCOMPLETE = object()
_let_others_run = getattr(os, "sched_yield", lambda: None)
"""Gives the processor to those that who polls waits for, where the system has a call for that."""

Command = tuple[str | bytes | int, ...]


def error_reply(text: str) -> ResponseError:
    """What the server answered in place of a reply, always a `ResponseError`.

    redis-py makes a `ConnectionError` of some, as of `LOADING` while a server that was started again reads its file;
    they are replies all the same, and whoever asked looks for one class.
    """
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py left it untyped
    return error if isinstance(error, ResponseError) else ResponseError(str(error))


def pack(commands: Iterable[Command]) -> bytes:
    """The bytes of commands, packed by hiredis: redis-py's own packer takes four times as long."""
    return b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub wants 1-tuples


class QueueConnection(asyncio.Protocol):
    """A connection that sends batches of commands and reads their replies in order.

    redis-py makes the connection (URL, TLS, login, database); then its socket is handed to the protocol here, since the
    streams that redis-py reads from cost a reply more than the server does.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user and password.
        name: the client name that the server shows.
    """

    def __init__(self, url: str, name: str) -> None:
        options: dict[str, Any] = {**parse_url(url)}
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._connection = kind(
            **options, client_name=name, protocol=2, socket_timeout=None, socket_connect_timeout=CONNECT_SECONDS
        )
        self._transport: asyncio.WriteTransport | None = None
        self._reader: Any = Reader(protocolError=InvalidResponse, replyError=error_reply, notEnoughData=_INCOMPLETE)
        self._replies: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._waits_for = 0
        self._broken: Exception | None = None
        self._sent = 0
        self._received = 0
        self.client_id = 0

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
        self._adopt_socket()
        self.client_id = await self.call("CLIENT", "ID")

    def _adopt_socket(self) -> None:
        writer = self._connection._writer  # noqa: SLF001  # redis-py has no public way to its socket
        if writer is None:
            raise QueueError("the connection to the queue was closed while it was made")
        self._transport = writer.transport
        self._transport.set_protocol(self)

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands in one write.

        Raises:
            QueueError: if the connection broke; whether the server got them is not known.
        """
        if self._transport is None or self._broken is not None:
            raise self._gone()
        self._sent += len(commands)
        packed = pack(commands)
        self._transport.write(packed)

    async def receive(self, poll_us: int = 0) -> Any:
        """The next reply; an error reply is returned, not raised, so that the ones behind it stay in step.

        Args:
            poll_us: see `receive_many`.

        Raises:
            QueueError: if the connection broke.
        """
        (reply,) = await self.receive_many(1, poll_us)
        return reply

    async def receive_many(self, count: int, poll_us: int = 0) -> list[Any]:
        """The next replies, in order, error replies among them.

        Args:
            count: how many.
            poll_us: for how many microseconds to look for them again and again, before this task sleeps.

        Raises:
            QueueError: if the connection broke.
        """
        replies = self._replies
        until = time.monotonic_ns() + poll_us * 1000 if poll_us else 0
        while len(replies) < count and self._broken is None and time.monotonic_ns() < until:
            _let_others_run()
            await asyncio.sleep(0)
        if len(replies) < count:
            if self._broken is not None or self._transport is None:
                raise self._gone()
            self._waits_for = count
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._received += count
        return [replies.popleft() for _ in range(count)]

    def _gone(self) -> QueueError:
        error = QueueError(f"the connection to the queue broke: {self._broken or 'it is closed'}")
        error.__cause__ = self._broken
        return error

    def data_received(self, data: bytes) -> None:
        """Take what the server wrote (`asyncio.Protocol`)."""
        if self._broken is not None:
            return
        try:
            self._reader.feed(data)
            next_reply, take = self._reader.gets, self._replies.append
            while (reply := next_reply(False)) is not _INCOMPLETE:
                take(reply)
        except Exception as error:  # noqa: BLE001  # no server that we know speaks like that; whoever waits sees it
            self._break(error)
            return
        if len(self._replies) > self._sent - self._received:
            self._break(InvalidResponse("the server answers what was not asked"))
            return
        if self._waiter is not None and len(self._replies) >= self._waits_for and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Learn that the connection ended (`asyncio.Protocol`)."""
        self._break(error or RedisConnectionError("the server closed it"))

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._gone())

    async def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and read their replies; error replies are returned in their place.

        Raises:
            QueueError: if the connection broke.
        """
        self.send(commands)
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
        self._break(RedisConnectionError("it is closed"))
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)
