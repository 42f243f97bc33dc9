"""Copies the audit from disk to its stream, off the hot path: late when it must be, never with a gap of its making.

The file is the buffer: the publisher reads on from where the stream ends, so a queue that is away costs no memory and
nothing is lost. Where the stream ends it asks the stream itself, at the start and after every failure; what it cannot
be sure of it publishes again, and consumers deduplicate by event id.
"""

import asyncio
import errno
import random
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import format_time
from broker_worker.audit.chain_files import Position, list_files, read_lines
from broker_worker.audit.position import position_after, position_before, skip_older
from broker_worker.audit.sink import JsonlSink

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEEP: Final = 100_000
"""How many events the stream keeps, about."""
_LINES_A_CALL = 128
_PAGE = 512
_LINGER_SECONDS = 0.02
_TIMEOUT_SECONDS = 10.0
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_INLINE_BYTES = 64 * 1024 * 1024

# One call, four arguments and one short answer for many events: a pipeline would have the worker, whose time is dear,
# pack each line and parse an answer for it. The event ids are those of `agent_sdk.wire.audit.event_id`.
_PUBLISH = """
local sequence = tonumber(ARGV[3])
for line in string.gmatch(ARGV[4], '([^\\n]*)\\n') do
  local id = string.format('%s-%012d', ARGV[2], sequence)
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'e', id, 'd', line)
  sequence = sequence + 1
end
"""
_log = structlog.get_logger()


class AuditPublisher:
    """Publishes one worker's audit events to the stream `sb:audit`, one entry an event: `e` its id, `d` its line.

    Args:
        client: a client of the queue that returns bytes.
        sink: the audit that is published; the publisher adds itself as its listener.
        keep: how many events the stream keeps, about; no more than that is published again.
    """

    def __init__(self, client: "Redis", sink: JsonlSink, *, keep: int = KEEP) -> None:
        self._client = client
        self._sink = sink
        self._keep = keep
        self._script = client.register_script(_PUBLISH)
        self._at: Position | None = None
        self._wake = asyncio.Event()
        self._idle = False
        self._progress = asyncio.Event()
        self._delay = 0.0
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
        """Publish until cancelled; a queue that is away is tried again, at most every few seconds."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                self._at = await self._locate()
                self._progress.set()
                while True:
                    await self._publish_some(self._at)
            except (RedisError, OSError) as error:
                if not self._delay:
                    _log.warning("the audit stream cannot be written; catching up later", error=type(error).__name__)
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

    async def _publish_some(self, start: Position) -> None:
        """Publish the next events, or wait for some."""
        end = self._sink.position
        if start == end:
            await self._wait(end)
            return
        if start.file == end.file and end.offset - start.offset < _INLINE_BYTES:  # in the page cache
            lines, following = read_lines(start, end, _LINES_A_CALL)
        else:
            lines, following = await asyncio.to_thread(read_lines, start, end, _LINES_A_CALL)
        if lines:
            await self._send(start, lines)
        elif following == start:
            raise OSError(errno.ESTALE, "is shorter than it was", str(start.file.path))
        self._at = following
        self._progress.set()

    async def _wait(self, end: Position) -> None:
        self._wake.clear()
        self._idle = True
        if self._sink.position == end:
            await self._wake.wait()
        await asyncio.sleep(_LINGER_SECONDS)  # the answers of the batch go first, and more events come together

    async def _send(self, start: Position, lines: Sequence[bytes]) -> None:
        block = b"\n".join((*lines, b""))
        arguments = (self._keep, start.file.chain, start.sequence, block)
        await _in_time(self._script(keys=[keynames.AUDIT], args=arguments))
        if self._delay:
            _log.info("the audit stream is written again")
            self._delay = 0.0

    async def _locate(self) -> Position:
        """Where to go on: after the newest of this worker's events that the stream holds."""
        end = self._sink.position
        files = await asyncio.to_thread(list_files, end.file.path.parent, end.file.worker)
        newest = await self._newest_published({file.chain for file in files}, end)
        if newest == (end.file.chain, end.sequence - 1):
            return end
        if newest is not None:
            return await asyncio.to_thread(position_after, files, *newest) or end
        start = await asyncio.to_thread(position_before, files, end, self._keep)
        oldest = await self._oldest_kept()
        return start if oldest is None else await asyncio.to_thread(skip_older, start, end, oldest)

    async def _newest_published(self, chains: set[str], end: Position) -> tuple[str, int] | None:
        """Chain and sequence of this worker's newest event on the stream."""
        last = "+"
        for _ in range(2 * self._keep // _PAGE + 1):
            page = await _in_time(self._client.xrevrange(keynames.AUDIT, last, "-", count=_PAGE))
            for _, fields in page:
                chain, _, digits = fields.get(b"e", b"").decode("ascii", "replace").partition("-")
                if chain not in chains or not digits.isdecimal():
                    continue
                if chain == end.file.chain and int(digits) >= end.sequence:
                    continue  # not ours, whatever it says: verification with --stream tells the operator
                return chain, int(digits)
            if len(page) < _PAGE:
                return None
            last = "(" + page[-1][0].decode("ascii")
        return None

    async def _oldest_kept(self) -> str | None:
        """The time of the stream's oldest entry, if the stream is full: what is older would only push out newer."""
        if await _in_time(self._client.xlen(keynames.AUDIT)) < self._keep:
            return None
        oldest = await _in_time(self._client.xrange(keynames.AUDIT, count=1))
        return format_time(int(oldest[0][0].split(b"-")[0])) if oldest else None


async def _in_time(answer: Awaitable[Any]) -> Any:
    """Await an answer of the queue, with a deadline, and be cancelled by whoever cancels meanwhile.

    redis-py sends through `asyncio.wait_for`, which on Python 3.11 forgets a cancellation that comes just when the
    send is done; without the look behind it the task would go on for ever.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await answer
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
