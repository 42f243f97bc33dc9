"""Where a publisher goes on: the newest of its own entries is found among whatever else lies on the stream."""

from pathlib import Path

import redis
from audit_stream_workbench import DEADLINE, MEBIBYTE, OTHER, Running, lines_on_disk, on_stream, put, put_others
from audit_workbench import IDENTITY, access, open_sink
from redis.asyncio import Redis

from agent_sdk.wire.audit_chain import Fault
from agent_sdk.wire.audit_stream import ChainSegment, pack_segment
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder


async def test_what_a_crash_left_in_the_file_is_published_at_the_start(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Only what the stream does not have is published again."""
    async with Running(stream_client, audit_sink) as publisher:
        audit_sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
    audit_sink.append([access(2)])
    audit_sink.append([access(3)])
    audit_sink.close()
    again = open_sink(audit_folder)
    async with Running(stream_client, again) as publisher:
        assert await publisher.drain(DEADLINE)
    again.close()
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_stream_that_ends_in_an_older_chain_is_caught_up(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """The rest of an older chain comes before the newer one."""
    audit_sink.append([access(1)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    audit_sink.append([access(2)])
    audit_sink._abandon()
    audit_sink.append([access(3)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_stream_that_was_lost_is_filled_again(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """A server that forgot everything gets all that the stream would keep."""
    audit_sink.append([access(1)] * 300)
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    stream_server.flushall()
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


def hostile_entries(sink: JsonlSink) -> dict[str, dict[bytes, bytes]]:
    """What somebody may put on the stream to confuse whoever reads it."""
    mine = sink.position.file.chain.encode()
    good = pack_segment(ChainSegment(mine.decode(), 10**9, (b"{}", b"{}")))
    return {
        "the future of this chain": good,
        "a count that is too high": {**good, b"s": b"0", b"n": b"3"},
        "a count that is no number": {**good, b"s": b"0", b"n": b"two"},
        "a sequence beyond all": {**good, b"s": b"9" * 16},
        "a sequence that is negative": {**good, b"s": b"-1"},
        "more lines than allowed": {**good, b"s": b"0", b"n": b"129", b"d": b"\n" * 128},
        "two megabytes": {**good, b"s": b"0", b"n": b"1", b"d": b"x" * 2 * MEBIBYTE},
        "no lines": {b"c": mine, b"s": b"0", b"n": b"0"},
        "one field": {b"\xff": b"\xff"},
        "another chain": pack_segment(ChainSegment(OTHER, 0, (b"{}",))),
        "no chain": {**good, b"c": b"\xff" * 16},
    }


async def test_hostile_entries_are_not_believed(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Whatever lies on the stream, every line is published, and verification says that there is more than ours."""
    hostile = hostile_entries(audit_sink)
    for fields in hostile.values():
        put(stream_server, fields)
    audit_sink.append([access(1)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)
    report = verify_folder(audit_folder, IDENTITY, read_stream(stream_server))
    assert report.ok
    assert [finding.fault for finding in report.findings] == [Fault.UNKNOWN_ENTRY]
    assert f"{len(hostile) - 2}, the first" in report.findings[0].detail  # two are well-formed


async def test_hostile_entries_behind_ours_do_not_hide_where_we_were(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """The newest entry that can be this worker's is looked for behind them, so nothing comes twice."""
    audit_sink.append([access(1)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    for fields in hostile_entries(audit_sink).values():
        put(stream_server, fields)
    audit_sink.append([access(2)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_the_newest_event_is_found_behind_those_of_other_workers(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Pages of others' entries are read over until this worker's own turns up."""
    audit_sink.append([access(1)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    put_others(stream_server, 200)
    audit_sink.append([access(2)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_the_search_for_the_newest_event_ends(
    stream_client: Redis, stream_server: redis.Redis, audit_sink: JsonlSink, audit_folder: Path
) -> None:
    """Behind more than a stream may hold nothing is looked for: it is published again instead."""
    audit_sink.append([access(1)])
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    put_others(stream_server, 1000)
    async with Running(stream_client, audit_sink, keep_bytes=100_000) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == [*lines_on_disk(audit_folder), *lines_on_disk(audit_folder)]
