"""One connection to an upstream: a call at a time, and an end with whatever comes that nobody asked for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from broker_worker.egress.problems import Refusal
from broker_worker.egress.reading import AnswerBroken, AnswerReader, Head

_MOST_WAITING = 128 * 1024
"""When so much of an answer waits to be taken, no more of it is read until it is."""


class UpstreamConnection(asyncio.Protocol):
    """A connection that calls of one run go by, one after the other."""

    def __init__(self) -> None:
        self.calls = 0
        """How many calls went by it."""
        self.idle_since = 0.0
        """Since when none goes by it, on the loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._idle: float | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_paused = False
        self._said_something = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (the loop's, as are the next five)."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on. What comes while no call is made could be taken for the answer to the next one."""
        self._said_something = True
        reader, transport = self._reader, self._transport
        if reader is None or transport is None:
            self.close()
            return
        try:
            reader.feed(data)
        except AnswerBroken:
            self.close()
            return
        if reader.waiting > _MOST_WAITING and not self._is_paused:
            self._is_paused = True
            transport.pause_reading()
        _wake(self._arrived)

    def eof_received(self) -> None:
        """Let the transport close itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is read, unless that was done here."""
        if self._transport is not None and self._reader is not None and exc is None:
            with contextlib.suppress(AnswerBroken):  # whoever reads on sees that the connection is gone
                self._reader.end()
        self.close()

    def pause_writing(self) -> None:
        """Have whoever sends wait."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Have whoever sends go on."""
        _wake(self._writable)
        self._writable = None

    @property
    def is_open(self) -> bool:
        """Whether a call can go by it, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def was_stale(self) -> bool:
        """Whether it ended without a word to the call, as one does that the upstream was just closing."""
        return self.calls > 1 and not self._said_something and not self.is_open

    async def ask(
        self, head: bytes, body: bytes | AsyncIterator[bytes], *, is_chunked: bool, to_head: bool, idle: float | None
    ) -> Head:
        """Send a request, and wait for the head of the answer, which may come before all is sent.

        Args:
            head: all that stands before the body.
            body: the body, which goes with the head, or its pieces.
            is_chunked: whether pieces are sent in chunks (RFC 9112, section 7.1).
            to_head: whether this is HEAD.
            idle: how many seconds the upstream may say nothing once all is sent; None for any number.

        Raises:
            AnswerBroken: if the connection ended, or what came is no answer.
            TimeoutError: if nothing came in time.
        """
        self.calls += 1
        self._said_something = False
        self._idle = idle
        reader = self._reader = AnswerReader(to_head=to_head)
        if isinstance(body, bytes):
            self._write(head + body)
        else:
            self._write(head)
            self._sending = asyncio.create_task(self._send(body, is_chunked=is_chunked))
        while reader.head is None:
            await self._more()
        return reader.head

    async def read(self) -> bytes:
        """The next piece of the answer's body; nothing at its end.

        Raises:
            AnswerBroken: if it ends before it is whole.
            TimeoutError: if nothing came in time.
        """
        while (reader := self._reader) is not None:
            if reader.waiting:
                found = reader.take()
                if self._is_paused and self._transport is not None:
                    self._is_paused = False
                    self._transport.resume_reading()
                return found
            if reader.is_whole:
                return b""
            await self._more()
        raise AnswerBroken

    async def finish(self) -> bool:
        """End the call; whether another can go by the connection. It is closed otherwise."""
        reader, self._reader = self._reader, None
        sending, self._sending = self._sending, None
        is_sent = sending is None or sending.done()
        is_taken = self._writable is None  # else requests could pile up here before an upstream that reads none
        can_go_on = is_sent and is_taken and self.is_open and reader is not None and reader.is_clean
        if not can_go_on:
            self.close()
            if reader is not None:
                reader.close()
        if sending is not None and not is_sent:  # nobody else may read the agent's body until this has stopped
            sending.cancel()
            await asyncio.wait((sending,))
        return can_go_on

    def close(self) -> None:
        """End it at once; whoever waits is told."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._reader is not None:
            self._reader.close()
        _wake(self._arrived)
        _wake(self._writable)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _send(self, pieces: AsyncIterator[bytes], *, is_chunked: bool) -> None:
        """Send a body as it comes. If it does not come whole the connection ends, so that nothing passes for it."""
        try:
            async for piece in pieces:
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                if self._writable is not None:
                    await self._writable
                if self._transport is None:
                    return
            if is_chunked:
                self._write(b"0\r\n\r\n")
        except Refusal:
            self.close()  # the body has it as its problem
        except BaseException:
            self.close()
            raise
        finally:
            _wake(self._arrived)  # from now on the upstream may say nothing only for so long

    async def _more(self) -> None:
        """Wait until something came, the body was sent, or the connection ended."""
        if self._transport is None:
            raise AnswerBroken
        is_sent = self._sending is None or self._sending.done()
        self._arrived = self._loop.create_future()
        try:
            if self._idle is None or not is_sent:
                await self._arrived
            else:
                async with asyncio.timeout(self._idle):
                    await self._arrived
        finally:
            self._arrived = None


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
