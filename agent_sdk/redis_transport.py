"""The transport over Redis or Valkey: one connection that writes, one that waits for replies.

What was handed over in one turn of the event loop goes out in a few writes, with the next read right behind the last;
everything that lies on the reply stream comes in as one read. No task runs for it: what a request costs here is its
share of a few callbacks.

When a connection breaks, envelopes whose XADD was not confirmed are written again after the next connect. That is
safe because it is the very same sealed request: should both writes have reached the stream, the broker answers one
and refuses the other as a replay, silently. A confirmed request is not written again. The caller sees an answer, or
`Unavailable` at the deadline.
"""

import asyncio
from collections import deque
from typing import Any

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

from agent_sdk.queue_connection import QueueConnection, connector, pack
from agent_sdk.reply_cursor import ReplyCursor
from agent_sdk.transport import Receiver
from agent_sdk.wire import keynames

ANSWER_SECONDS = 10.0
"""A server that is silent for longer than this, beyond a read's own wait, counts as gone."""
RING_SECONDS = 5.0
"""The doorbell is rung again when this long has passed: workers watch an agent for at least 10 s."""
MAX_BATCH = 256
EARLY_BATCH = 8
"""So many envelopes are written at once, rather than when all callers that were woken together have sealed theirs: a
worker has begun with the first ones by then."""

_PASSING = (ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)
_LASTING = (AuthenticationError, NoPermissionError)


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
        self._connect = connector(queue_url, shown_url)
        self._shown_url = shown_url
        self._requests = keynames.requests(agent_id).encode()
        self._ring = pack(b"PUBLISH", keynames.doorbell(agent_id).encode(), b"1")
        self._cursor = ReplyCursor(replies.encode())
        self._outbox: dict[bytes, bytes] = {}
        self._unconfirmed: dict[bytes, bytes] = {}
        self._due: deque[bytes | None] = deque()
        self._rung = -RING_SECONDS
        self._writer: QueueConnection | None = None
        self._reader: QueueConnection | None = None
        self._must_read = False
        self._scheduled = False
        self._broken = asyncio.Event()
        self._failure: Exception | None = None
        self._backoff = ExponentialWithJitterBackoff(cap=2.0, base=0.05)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to connect, in the background of the running event loop."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(receiver), name="secret-broker transport")

    def send(self, request_id: bytes, envelope: bytes) -> None:
        """Take an envelope; it goes out with the next write, soon."""
        self._outbox[request_id] = envelope
        if len(self._outbox) >= EARLY_BATCH:
            self._write_now()
        else:
            self._write_soon()

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
                await self._session()
            except (RedisError, OSError) as failure:
                # redis-py wraps what the server says while it connects
                error = failure.__cause__ if isinstance(failure.__cause__, RedisError) else failure
                failures = failures + 1 if self.problem else 1
                self.problem = f"the queue at {self._shown_url} cannot be used ({_words(error)})"
                self._outbox = {**self._unconfirmed, **self._outbox}
                self._unconfirmed = {}
                if isinstance(error, _LASTING):
                    receiver.refuse(list(self._outbox), self.problem)
            await asyncio.sleep(self._backoff.compute(failures))

    async def _session(self) -> None:
        """Use a pair of connections until one of them breaks."""
        writer = QueueConnection(self._confirm, self._break, self._write_soon)
        reader = QueueConnection(self._read, self._break, self._write_soon)
        self._due.clear()
        self._rung = -RING_SECONDS
        self._cursor.found = False
        self._must_read = True
        self._failure = None
        self._broken.clear()
        try:
            await writer.open(self._connect())
            await reader.open(self._connect())
            self._writer, self._reader = writer, reader
            self._write_soon()
            await self._until_broken(writer, reader)
        finally:
            self._writer = self._reader = None
            await writer.close()
            await reader.close()

    async def _until_broken(self, writer: QueueConnection, reader: QueueConnection) -> None:
        """Wait for the end of the session, and bring it about when a reply is due for too long."""
        while self._failure is None:
            limits = ((writer, ANSWER_SECONDS), (reader, ANSWER_SECONDS + self._cursor.block_seconds))
            now = asyncio.get_running_loop().time()
            left = min(limit if c.silent_since is None else c.silent_since + limit - now for c, limit in limits)
            if left <= 0:
                raise TimeoutError("the server did not answer")
            try:
                async with asyncio.timeout(left):
                    await self._broken.wait()
            except TimeoutError:
                continue
        raise self._failure

    def _break(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
            self._broken.set()

    def _write_soon(self) -> None:
        """Write at the end of this turn of the event loop, so that callers who were woken together share a write."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._scheduled = False
        self._write_now()
        if self._must_read and self._reader is not None:
            self._must_read = False
            self._reader.send(self._cursor.command(), 1)

    def _write_now(self) -> None:
        """Write what there is, if the queue is there and takes it."""
        if self._writer is None or self._reader is None:
            return
        if self._cursor.found or self.problem is None:  # an answer before the stream's end is known would be missed
            while self._outbox and not self._writer.full:
                self._write_batch(self._writer)

    def _write_batch(self, writer: QueueConnection) -> None:
        if len(self._outbox) <= MAX_BATCH:
            batch, self._outbox = self._outbox, {}
        else:
            batch = {request_id: self._outbox.pop(request_id) for request_id in list(self._outbox)[:MAX_BATCH]}
        self._unconfirmed.update(batch)
        self._due.extend(batch)
        head = (b"XADD", self._requests, b"*", keynames.MESSAGE_FIELD)
        packed = [pack(*head, envelope) for envelope in batch.values()]
        now = asyncio.get_running_loop().time()
        if now - self._rung >= RING_SECONDS:
            self._rung = now
            packed.append(self._ring)
            self._due.append(None)
        writer.send(b"".join(packed), len(packed))

    def _confirm(self, replies: list[Any]) -> None:
        """Take the replies to what was written, in order; None stands for the doorbell's."""
        for reply in replies:
            if not self._due:
                raise InvalidResponse("the server answers what was not asked")
            request_id = self._due[0]
            if isinstance(reply, Exception):
                self._refused(request_id, reply)
            self._due.popleft()
            if request_id is not None:
                self._unconfirmed.pop(request_id, None)

    def _refused(self, request_id: bytes | None, error: Exception) -> None:
        if request_id is None or not isinstance(error, ResponseError) or isinstance(error, _PASSING):
            raise error
        if self._receiver is not None:
            self._receiver.refuse([request_id], f"the queue refused the request ({_words(error)})")

    def _read(self, replies: list[Any]) -> None:
        """Take what lies on the reply stream; the next read follows what the callers write who are woken by it."""
        for reply in replies:
            if self._must_read:
                raise InvalidResponse("the server answers what was not asked")
            if isinstance(reply, Exception):
                raise reply
            self._must_read = True
            envelopes = self._cursor.take(reply)
            if self._cursor.found:
                self.problem = None
            if envelopes and self._receiver is not None:
                self._receiver.deliver(envelopes)
        self._write_soon()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
