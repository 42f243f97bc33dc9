"""The stream `sb:audit` as a publisher uses it: segments are added, its size is kept, its end is searched."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import format_time
from agent_sdk.wire.audit_stream import CHAIN_FIELD, LINES_FIELD, ChainSegment, pack_segment, unpack_segment
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import Position

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEEP_BYTES: Final = 64 * 1024 * 1024
"""How much of the queue's memory the stream may take, about: a quarter of what the embedded server has."""
_MEASURE_EVERY = 1024 * 1024
_PAGE = 32
_SMALLEST_ENTRY = 512
_TIMEOUT_SECONDS = 10.0


class SegmentStream:
    """One publisher's view of `sb:audit`. Every method may raise `RedisError` or `OSError`.

    Args:
        client: a client of the queue that returns bytes.
        keep_bytes: how much memory of the server the stream may take, about.
    """

    def __init__(self, client: "Redis", keep_bytes: int) -> None:
        self._client = client
        self._keep = keep_bytes
        self._unmeasured = 0

    async def append(self, segments: Sequence[ChainSegment]) -> None:
        """Add an entry for each segment, all of them or none, and trim the stream about every megabyte.

        A full server that refused one and took the next would leave a hole: the publisher goes on behind the newest.
        """
        pipeline = self._client.pipeline(transaction=True)
        for segment in segments:
            fields = pack_segment(segment)
            pipeline.xadd(keynames.AUDIT, fields)  # type: ignore[arg-type]  # invariant in its stub
            self._unmeasured += len(fields[LINES_FIELD])
        await _in_time(pipeline.execute())
        if self._unmeasured >= _MEASURE_EVERY:
            await self.trim()

    async def trim(self) -> None:
        """While the stream is too large, take the oldest tenth of its entries away; once is the rule."""
        self._unmeasured = 0
        while await self._size() > self._keep:
            length = await _in_time(self._client.xlen(keynames.AUDIT))
            # exactly, which costs part of one node more: an approximate trim leaves the last nodes, however large
            await _in_time(self._client.xtrim(keynames.AUDIT, maxlen=length * 9 // 10, approximate=False))

    async def room(self) -> int:
        """How many bytes the stream may still grow by."""
        return max(0, self._keep - await self._size())

    async def oldest(self) -> str | None:
        """The time of the oldest entry, in the audit's form; None if there is none, or no clock can have given it."""
        found = await _in_time(self._client.xrange(keynames.AUDIT, count=1))
        try:
            return format_time(int(found[0][0].split(b"-")[0])) if found else None
        except ValueError:
            return None

    async def newest(self, chains: Collection[str], end: Position) -> tuple[str, int] | None:
        """Chain and sequence of the last line in the newest entry of some chains.

        Args:
            chains: the chains.
            end: where the next line will stand; what claims to be of its chain and not before it is not believed.
        """
        wanted = {chain.encode() for chain in chains}
        last, read = "+", 0
        while read <= 2 * self._keep:
            page = await _in_time(self._client.xrevrange(keynames.AUDIT, last, "-", count=_PAGE))
            for _, fields in page:
                read += max(_SMALLEST_ENTRY, len(fields.get(LINES_FIELD, b"")))
                found = _segment(fields) if fields.get(CHAIN_FIELD) in wanted else None
                if found and (found.chain != end.file.chain or found.last < end.sequence):
                    return found.chain, found.last
            if len(page) < _PAGE:
                return None
            last = "(" + page[-1][0].decode("ascii")
        return None

    async def _size(self) -> int:
        # All nodes: a sample would be the oldest ones, and say nothing of the size of those that a burst added.
        return await _in_time(self._client.memory_usage(keynames.AUDIT, samples=0)) or 0


def _segment(fields: dict[bytes, bytes]) -> ChainSegment | None:
    """The segment of an entry; None if it has none, of which verification with --stream tells the operator."""
    try:
        return unpack_segment(fields)
    except WireError:
        return None


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
