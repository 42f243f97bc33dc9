"""The audit stream keeps within its bytes: what is old does not push out what is new."""

from pathlib import Path

import redis
from audit_stream_workbench import DEADLINE, MEBIBYTE, Running, lines_on_disk, on_stream, put, put_others, size_of
from audit_workbench import START, access
from redis.asyncio import Redis

from agent_sdk.wire.audit import decode_line
from broker_worker.audit.sink import JsonlSink


async def test_old_events_do_not_push_out_newer_ones(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink
) -> None:
    """A worker that comes back to a full stream without its own events publishes none that are older than it."""
    audit_sink.append([access(1, at=START)] * 50)
    put_others(stream_server, 200, at=START + 1000)
    audit_sink.append([access(2, at=START + 2000)])
    async with Running(stream_client, audit_sink, keep_bytes=size_of(stream_server)) as publisher:
        assert await publisher.drain(DEADLINE)
    assert [decode_line(line).run_id for line in on_stream(stream_server)] == ["run-2", None]


async def test_old_events_are_published_as_far_as_there_is_room(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Another worker's newer entry on a stream that was lost keeps nobody from filling it again."""
    audit_sink.append([access(1, at=START)] * 50)
    put_others(stream_server, 1, at=START + 1000)
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_an_entry_of_no_possible_time_keeps_nothing_from_the_stream(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Who chooses an entry's id cannot stop the publisher with it."""
    put(stream_server, {b"x": b"y"}, f"{10**15}-0")
    audit_sink.append([access(1)] * 10)
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_the_stream_keeps_within_its_bytes(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink
) -> None:
    """It is trimmed by what it takes of the server's memory, however much larger new entries are than old ones."""
    put_others(stream_server, 2000)
    keep = 2 * MEBIBYTE
    async with Running(stream_client, audit_sink, keep_bytes=keep) as publisher:
        for number in range(8):
            audit_sink.append([access(number, purpose="p" * 7500)] * 140)
            assert await publisher.drain(DEADLINE)
            assert size_of(stream_server) < keep + 1.5 * MEBIBYTE
    runs = {decode_line(line).run_id for line in on_stream(stream_server)}
    assert "run-7" in runs
    assert "run-0" not in runs
    assert size_of(stream_server) > keep // 2


async def test_no_more_is_published_again_than_the_stream_keeps(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """A stream that was lost is filled with the newest."""
    audit_sink.append([access(1)] * 500)
    audit_sink.append([access(2)] * 20)
    newest = lines_on_disk(audit_folder)[-21:]
    async with Running(stream_client, audit_sink, keep_bytes=sum(map(len, newest)) + len(newest)) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == newest


async def test_a_stream_that_is_too_large_is_trimmed_at_the_start(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink
) -> None:
    """Also when the server is too full for a single new entry."""
    put_others(stream_server, 5000)
    async with Running(stream_client, audit_sink, keep_bytes=10_000) as publisher:
        assert await publisher.drain(DEADLINE)
    assert size_of(stream_server) < 20_000
