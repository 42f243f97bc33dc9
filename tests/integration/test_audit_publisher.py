"""The audit stream on a real server: complete, in order, and what the files hold."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
from audit_stream_workbench import DEADLINE, Running, lines_on_disk, on_stream, segments_on
from audit_workbench import IDENTITY, access, open_sink
from redis.asyncio import Redis

from agent_sdk.wire.audit_stream import MAX_SEGMENT_BYTES, MAX_SEGMENT_LINES, ChainSegment
from broker_worker.audit import publisher as publisher_module
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder


async def test_every_line_is_published_once_and_in_order(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Records and checkpoints reach the stream as they are on disk."""
    async with Running(stream_client, audit_sink) as publisher:
        for number in range(5):
            audit_sink.append([access(number)] * 100)
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_an_entry_holds_as_many_lines_as_it_may(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """What waits goes out in full entries, which cost the server little more than one of a single line."""
    audit_sink.append([access(1)] * 299)
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    segments = segments_on(stream_server)
    assert [len(segment.lines) for segment in segments] == [MAX_SEGMENT_LINES, MAX_SEGMENT_LINES, 44]
    assert [segment.first for segment in segments] == [0, 128, 256]


async def test_long_lines_fill_an_entry_by_their_bytes(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """No entry is larger than consumers allow."""
    audit_sink.append([access(1, purpose="p" * 7000)] * 40)
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    sizes = [len(b"\n".join(segment.lines)) for segment in segments_on(stream_server)]
    assert len(sizes) == 4
    assert MAX_SEGMENT_BYTES - 8192 < max(sizes) <= MAX_SEGMENT_BYTES
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_batches_that_follow_each_other_share_entries(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The publisher waits a little between short entries, so that under load there are few."""
    monkeypatch.setattr(publisher_module, "_LINGER_SECONDS", 0.3)
    async with Running(stream_client, audit_sink) as publisher:
        for number in range(100):  # while the publisher finds its place, and on
            audit_sink.append([access(number)])
            await asyncio.sleep(0)
        assert await publisher.drain(DEADLINE)
    assert len(segments_on(stream_server)) <= 6
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_records_of_another_thread_are_published(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """The worker syncs large batches in a thread; the publisher wakes up all the same."""
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
        await asyncio.to_thread(audit_sink.append, [access()])
        assert not publisher.is_caught_up
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_rotation_leaves_no_gap(stream_client: Redis, stream_server: redis.Redis, audit_folder: Path) -> None:
    """The publisher follows the chain from file to file, and from chain to chain."""
    sink = open_sink(audit_folder, max_file_bytes=1000)
    async with Running(stream_client, sink) as publisher:
        for number in range(10):
            sink.append([access(number)])
        sink._abandon()
        sink.append([access(99)])
        assert await publisher.drain(DEADLINE)
    sink.close()
    assert len(list_files(audit_folder)) > 3
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_what_piled_up_goes_to_the_server_a_few_entries_at_a_time(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However much there is, one write never holds all of it."""
    sizes: list[int] = []
    audit_sink.append([access(1)] * (20 * MAX_SEGMENT_LINES))
    async with Running(stream_client, audit_sink) as publisher:
        append = publisher._stream.append

        async def counted(segments: Sequence[ChainSegment]) -> None:
            sizes.append(len(segments))
            await append(segments)

        monkeypatch.setattr(publisher._stream, "append", counted)
        assert await publisher.drain(DEADLINE)
    assert (max(sizes), sum(sizes)) == (8, len(segments_on(stream_server)))
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_the_stream_and_the_files_verify_together(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """What `audit verify --stream` reads from a real server agrees with the files."""
    async with Running(stream_client, audit_sink) as publisher:
        for number in range(3):
            audit_sink.append([access(number)] * 700)
        assert await publisher.drain(DEADLINE)
    report = verify_folder(audit_folder, IDENTITY, read_stream(stream_server))
    assert report.findings == []
