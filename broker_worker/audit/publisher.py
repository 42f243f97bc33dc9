"""Copies the audit from disk to its stream, off the hot path: late when it must be, never with a gap of its making.

The file is the buffer: the publisher reads on from where the stream ends, so a queue that is away costs no memory and
nothing is lost. Where the stream ends it asks the stream itself, at the start and after every failure; what it cannot
be sure of it publishes again, and consumers deduplicate by event id.
"""

import asyncio
import errno
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from agent_sdk.wire.audit_stream import MAX_SEGMENT_BYTES, MAX_SEGMENT_LINES, ChainSegment
from broker_worker.audit.chain_files import ChainFile, Position, list_files, read_lines
from broker_worker.audit.position import position_after, position_before, skip_older
from broker_worker.audit.segment_stream import KEEP_BYTES, SegmentStream
from broker_worker.audit.sink import JsonlSink

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LINGER_SECONDS = 0.1
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_SEGMENTS_AT_ONCE = 8
_INLINE_BYTES = 64 * 1024 * 1024
_log = structlog.get_logger()


class AuditPublisher:
    """Publishes one worker's audit to the stream `sb:audit`, many lines an entry.

    Args:
        client: a client of the queue that returns bytes.
        sink: the audit that is published; the publisher adds itself as its listener.
        keep_bytes: how much memory of the server the stream may take, about; no more than that is published again.
    """

    def __init__(self, client: "Redis", sink: JsonlSink, *, keep_bytes: int = KEEP_BYTES) -> None:
        self._stream = SegmentStream(client, keep_bytes)
        self._sink = sink
        self._keep = keep_bytes
        self._at: Position | None = None
        self._wake = asyncio.Event()
        self._idle = False
        self._progress = asyncio.Event()
        self._delay = 0.0
        self._failure = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        sink.add_listener(self.notify)

    @property
    def is_caught_up(self) -> bool:
        """Whether everything that is on disk is on the stream."""
        return self._at == self._sink.position

    def notify(self) -> None:
        """Learn that there is more to publish; cheap, never waits, may be called from any thread."""
        if self._idle and self._loop is not None:
            self._idle = False
            with suppress(RuntimeError):  # the loop is closed: the next start publishes what is left
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Publish until cancelled; whatever fails is tried again, at most every few seconds."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                self._at = await self._locate()
                self._progress.set()
                while True:
                    await self._publish_some(self._at)
            except Exception as error:  # noqa: BLE001  # a defect must not end the task: nobody would start it again
                self._tell(error)
            self._delay = min(self._delay * 2, _LONGEST_DELAY) or _FIRST_DELAY
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers, no secret

    async def drain(self, deadline: float) -> bool:
        """Wait until everything that is on disk is on the stream; `run` must be running.

        Args:
            deadline: seconds to wait at most.

        Returns:
            Whether it is. What is not, the next start publishes.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while not self.is_caught_up:
                    self._progress.clear()
                    await self._progress.wait()
        return self.is_caught_up

    def _tell(self, error: Exception) -> None:
        """Log what failed, once until it goes on or something else fails; never the text, which may quote anything."""
        expected, name = isinstance(error, (RedisError, OSError)), type(error).__name__
        failure = "" if expected else name
        if self._delay and failure in ("", self._failure):
            return
        self._failure = failure
        if expected:
            _log.warning("the audit stream cannot be written; catching up later", error=name)
        else:
            _log.error("a defect keeps the audit from its stream; trying again", error=name)

    async def _publish_some(self, start: Position) -> None:
        """Publish the next lines, or wait for some."""
        end = self._sink.position
        if start == end:
            await self._wait(end)
            return
        if start.file == end.file and end.offset - start.offset < _INLINE_BYTES:  # in the page cache
            segments, following = _read_segments(start, end)
        else:
            segments, following = await asyncio.to_thread(_read_segments, start, end)
        if segments:
            await self._stream.append(segments)
            self._note_success()
        elif following == start:
            raise OSError(errno.ESTALE, "is shorter than it was", str(start.file.path))
        self._at = following
        self._progress.set()
        if following == end:
            await asyncio.sleep(_LINGER_SECONDS)  # an entry of many lines costs little more than one of a few

    async def _wait(self, end: Position) -> None:
        self._wake.clear()
        self._idle = True
        if self._sink.position == end:
            await self._wake.wait()
        await asyncio.sleep(_LINGER_SECONDS)  # the answers of the batch go first, and more events come together

    def _note_success(self) -> None:
        if self._delay:
            _log.info("the audit stream is written again")
            self._delay, self._failure = 0.0, ""

    async def _locate(self) -> Position:
        """Where to go on: after the newest of this worker's lines that the stream holds."""
        await self._stream.trim()
        end = self._sink.position
        files = await asyncio.to_thread(list_files, end.file.path.parent, end.file.worker)
        newest = await self._stream.newest({file.chain for file in files}, end)
        if newest == (end.file.chain, end.sequence - 1):
            return end
        if newest is not None:
            return await asyncio.to_thread(position_after, files, *newest) or end
        return await self._first_worth(files, end)

    async def _first_worth(self, files: Sequence[ChainFile], end: Position) -> Position:
        """Where to begin if the stream has nothing of this worker: nothing older may push out what is newer."""
        oldest, room = await self._stream.oldest(), await self._stream.room()
        start = await asyncio.to_thread(position_before, files, end, self._keep)
        if oldest is None:
            return start
        newer = await asyncio.to_thread(skip_older, start, end, oldest)
        fitting = await asyncio.to_thread(position_before, files, end, room)
        return min(newer, fitting, key=lambda at: (at.file.chain, at.file.first, at.offset))


def _read_segments(start: Position, end: Position) -> tuple[list[ChainSegment], Position]:
    """The next lines as entries for the stream, a few at most, and the position after them."""
    segments: list[ChainSegment] = []
    at = start
    while len(segments) < _SEGMENTS_AT_ONCE and at != end:
        lines, following = read_lines(at, end, MAX_SEGMENT_LINES, MAX_SEGMENT_BYTES)
        if lines:
            segments.append(ChainSegment(at.file.chain, at.sequence, tuple(lines)))
        elif following == at:
            break
        at = following
    return segments, at
