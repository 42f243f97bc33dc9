"""A publisher of the audit on a real server: what it has to copy, and what stands on the stream."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from audit_workbench import read_log
from redis.asyncio import Redis

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import decode_line
from agent_sdk.wire.audit_stream import ChainSegment, pack_segment, unpack_segment
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.segment_stream import KEEP_BYTES
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream

DEADLINE = 60.0
OTHER = "f" * 16
MEBIBYTE = 2**20


@pytest.fixture
async def stream_client(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of an empty real server."""
    async with Redis.from_url(valkey_url) as opened:
        yield opened


@pytest.fixture
def stream_server(valkey_url: str) -> Iterator[redis.Redis]:
    """The same server for the test's own look at it."""
    with redis.Redis.from_url(valkey_url) as opened:
        yield opened


class Running:
    """A publisher that runs while a test looks."""

    def __init__(self, client: Redis, sink: JsonlSink, keep_bytes: int = KEEP_BYTES) -> None:
        self.publisher = AuditPublisher(client, sink, keep_bytes=keep_bytes)

    async def __aenter__(self) -> AuditPublisher:
        self._task = asyncio.create_task(self.publisher.run())
        return self.publisher

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


def lines_on_disk(folder: Path) -> list[bytes]:
    """All lines of all files in order."""
    return [line for file in list_files(folder) for line in read_log(file.path)]


def on_stream(server: redis.Redis) -> list[bytes]:
    """The lines on the stream that are audit events; the id that is stated for each must be its own."""
    found = []
    for stated, line in read_stream(server):
        if line is not None and line != b"{}":
            assert stated == decode_line(line).event_id
            found.append(line)
    return found


def segments_on(server: redis.Redis) -> list[ChainSegment]:
    """The stream, entry by entry."""
    entries: Any = server.xrange(keynames.AUDIT)
    return [unpack_segment(fields) for _, fields in entries]


def put(server: redis.Redis, fields: Mapping[bytes, bytes], entry_id: str = "*") -> None:
    """Add an entry to the stream as whoever may write to it."""
    anything: dict[Any, Any] = {**fields}
    server.xadd(keynames.AUDIT, anything, id=entry_id)


def size_of(server: redis.Redis) -> int:
    """How much of the server's memory the stream takes."""
    return server.memory_usage(keynames.AUDIT, samples=0) or 0


def put_others(server: redis.Redis, count: int, at: int | None = None) -> None:
    """Add small entries of another worker's chain."""
    with server.pipeline(transaction=False) as pipeline:
        for number in range(count):
            fields = pack_segment(ChainSegment(OTHER, number, (b"{}",)))
            put(pipeline, fields, "*" if at is None else f"{at}-{number}")
        pipeline.execute()
