"""The transport over Redis or Valkey: one connection that writes, one that waits for replies.

Everything that was handed over since the last write goes out as one pipelined write; everything that lies on the
reply stream comes in as one read. redis-py's `Connection` is used directly: its command objects would cost more than
the cryptography (docs/performance.md).

When a connection breaks, envelopes whose XADD was not confirmed are written again after the next connect. That is
safe because it is the very same sealed request: should both writes have reached the stream, the broker answers one
and refuses the other as a replay, silently. A confirmed request is not written again. The caller sees an answer, or
`Unavailable` at the deadline.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from agent_sdk.errors import CredentialInvalid
from agent_sdk.transport import Receiver
from agent_sdk.wire import keynames

READ_COUNT = 512
BLOCK_MILLISECONDS = 5000
"""How long one read waits on the server; the position is checked again after it."""
ANSWER_SECONDS = 10.0
"""A server that is silent for longer than this, beyond a read's own wait, counts as gone."""
RING_SECONDS = 5.0
"""The doorbell is rung again when this long has passed: workers watch an agent for at least 10 s."""
MAX_BATCH = 256

_PASSING = (ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)
_LASTING = (AuthenticationError, NoPermissionError)
_START = b"0-0"


class RedisTransport:
    """Carries one run's envelopes over a Redis-compatible queue.

    Args:
        queue_url: `redis://`, `rediss://` or `unix://` with the agent's user and password.
        shown_url: the same without the password, for messages.
        agent_id: the agent, whose request stream is written to.
        replies: the run's reply stream.

    Raises:
        CredentialInvalid: if the URL cannot be understood.
    """

    def __init__(self, queue_url: str, shown_url: str, agent_id: str, replies: str) -> None:
        self.problem: str | None = "there was no connection to the queue yet"
        self._connect = _connector(queue_url, shown_url)
        self._shown_url = shown_url
        self._requests = keynames.requests(agent_id).encode()
        self._ring = _pack(b"PUBLISH", keynames.doorbell(agent_id).encode(), b"1")
        self._replies = replies.encode()
        self._position: bytes | None = None
        self._outbox: dict[bytes, bytes] = {}
        self._unconfirmed: dict[bytes, bytes] = {}
        self._waiting = asyncio.Event()
        self._backoff = ExponentialWithJitterBackoff(cap=2.0, base=0.05)
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to connect, in the background of the running event loop."""
        self._receiver = receiver
        self._task = asyncio.get_running_loop().create_task(self._run(receiver), name="secret-broker transport")

    def send(self, request_id: bytes, envelope: bytes) -> None:
        """Take an envelope; it goes out with the next write."""
        self._outbox[request_id] = envelope
        self._waiting.set()

    def forget(self, request_id: bytes) -> None:
        """Do not write an envelope, or not again."""
        self._outbox.pop(request_id, None)
        self._unconfirmed.pop(request_id, None)

    async def close(self) -> None:
        """Close both connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                raise error

    async def _run(self, receiver: Receiver) -> None:
        failures = 0
        while True:
            try:
                await self._session(receiver)
            except* (RedisError, OSError) as group:
                error = _first(group)
                failures = failures + 1 if self.problem else 1
                self.problem = f"the queue at {self._shown_url} cannot be used ({_words(error)})"
                self._outbox = {**self._unconfirmed, **self._outbox}
                self._unconfirmed = {}
                if isinstance(error, _LASTING):
                    receiver.refuse(list(self._outbox), self.problem)
            await asyncio.sleep(self._backoff.compute(failures))

    async def _session(self, receiver: Receiver) -> None:
        """Use a pair of connections until one of them breaks."""
        writer, reader = self._connect(), self._connect()
        try:
            for connection in (writer, reader):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            await self._find_position(reader)
            self.problem = None
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(writer, receiver))
                group.create_task(self._read(reader, receiver))
        finally:
            await writer.disconnect(nowait=True)
            await reader.disconnect(nowait=True)

    async def _write(self, connection: AbstractConnection, receiver: Receiver) -> None:
        clock = asyncio.get_running_loop().time
        rung = -RING_SECONDS
        self._waiting.set()
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._outbox:
                ringing = clock() - rung >= RING_SECONDS
                if ringing:
                    rung = clock()
                await self._write_batch(connection, receiver, ringing=ringing)

    async def _write_batch(self, connection: AbstractConnection, receiver: Receiver, *, ringing: bool) -> None:
        if len(self._outbox) <= MAX_BATCH:
            batch, self._outbox = self._outbox, {}
        else:
            batch = {request_id: self._outbox.pop(request_id) for request_id in list(self._outbox)[:MAX_BATCH]}
        self._unconfirmed = batch
        packed = [_pack(b"XADD", self._requests, b"*", keynames.MESSAGE_FIELD, envelope) for envelope in batch.values()]
        request_ids = list(batch)
        if ringing:
            packed.append(self._ring)
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.send_packed_command([b"".join(packed)], check_health=False)
            for request_id in request_ids:
                try:
                    await connection.read_response()
                except _PASSING:
                    raise
                except ResponseError as error:
                    receiver.refuse([request_id], f"the queue refused the request ({_words(error)})")
                batch.pop(request_id, None)
            if ringing:
                await connection.read_response()

    async def _read(self, connection: AbstractConnection, receiver: Receiver) -> None:
        block = str(BLOCK_MILLISECONDS).encode()
        seconds = BLOCK_MILLISECONDS / 1000 + ANSWER_SECONDS
        head = (b"XREAD", b"COUNT", str(READ_COUNT).encode(), b"BLOCK", block, b"STREAMS", self._replies)
        while True:
            response = await _ask(connection, (*head, self._position or _START), seconds)
            if response is None:
                await self._find_position(connection)
                continue
            entries = _entries(response)
            self._position = entries[-1][0]
            receiver.deliver([envelope for _, envelope in entries if envelope is not None])

    async def _find_position(self, connection: AbstractConnection) -> None:
        """Begin after the newest entry, or go on where reading stopped.

        A stream that ends before that position was recreated in between: all that is on it is new.
        """
        response = await _ask(connection, (b"XREVRANGE", self._replies, b"+", b"-", b"COUNT", b"1"), ANSWER_SECONDS)
        newest = _entries([[self._replies, response]])[0][0] if response else _START
        if self._position is None:
            self._position = newest
        elif _order(newest) < _order(self._position):
            self._position = _START


def _connector(queue_url: str, shown_url: str) -> Callable[[], AbstractConnection]:
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


def _pack(*arguments: bytes) -> bytes:
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub forgets the "..."
    return packed


async def _ask(connection: AbstractConnection, command: Sequence[bytes], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        await connection.send_packed_command([_pack(*command)], check_health=False)
        return await connection.read_response()


def _entries(response: Any) -> list[tuple[bytes, bytes | None]]:
    """Take the ids and envelopes out of one stream's entries; None where an entry is no message."""
    try:
        ((_, entries),) = response
        found = [(bytes(entry_id), _envelope(fields)) for entry_id, fields in entries]
        for entry_id, _ in found:
            _order(entry_id)
    except (TypeError, ValueError):
        found = []
    if not found:
        raise InvalidResponse("the server's answer is not that of a stream")
    return found


def _envelope(fields: object) -> bytes | None:
    match fields:
        case [keynames.MESSAGE_FIELD, bytes(envelope)]:
            return envelope
        case _:
            return None


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The error that ended a session; redis-py wraps what the server says while it connects."""
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _first(error)
    return error.__cause__ if isinstance(error.__cause__, RedisError) else error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
