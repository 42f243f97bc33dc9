"""The audit stream on a real server: complete, in order, and caught up after whatever happened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from audit_workbench import IDENTITY, START, access, open_sink, read_log, write_log
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import decode_line, format_time
from agent_sdk.wire.audit_chain import Fault
from agent_sdk.wire.audit_stream import (
    MAX_SEGMENT_BYTES,
    MAX_SEGMENT_LINES,
    ChainSegment,
    pack_segment,
    unpack_segment,
)
from broker_worker.audit import publisher as publisher_module
from broker_worker.audit.chain_files import ChainFile, Position, chain_file, list_files, read_lines
from broker_worker.audit.position import position_after, position_before, skip_older
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.segment_stream import KEEP_BYTES
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import QueueError

DEADLINE = 60.0
OTHER = "f" * 16
MEBIBYTE = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the audit goes."""
    return tmp_path / "audit"


@pytest.fixture
def sink(folder: Path) -> Iterator[JsonlSink]:
    """An open audit."""
    opened = open_sink(folder)
    yield opened
    opened.close()


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of an empty real server."""
    async with Redis.from_url(valkey_url) as opened:
        yield opened


@pytest.fixture
def server(valkey_url: str) -> Iterator[redis.Redis]:
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


async def test_every_line_is_published_once_and_in_order(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Records and checkpoints reach the stream as they are on disk."""
    async with Running(client, sink) as publisher:
        for number in range(5):
            sink.append([access(number)] * 100)
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_an_entry_holds_as_many_lines_as_it_may(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """What waits goes out in full entries, which cost the server little more than one of a single line."""
    sink.append([access(1)] * 299)
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    segments = segments_on(server)
    assert [len(segment.lines) for segment in segments] == [MAX_SEGMENT_LINES, MAX_SEGMENT_LINES, 44]
    assert [segment.first for segment in segments] == [0, 128, 256]


async def test_long_lines_fill_an_entry_by_their_bytes(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """No entry is larger than consumers allow."""
    sink.append([access(1, purpose="p" * 7000)] * 40)
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    sizes = [len(b"\n".join(segment.lines)) for segment in segments_on(server)]
    assert len(sizes) == 4
    assert MAX_SEGMENT_BYTES - 8192 < max(sizes) <= MAX_SEGMENT_BYTES
    assert on_stream(server) == lines_on_disk(folder)


async def test_batches_that_follow_each_other_share_entries(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher waits a little between short entries, so that under load there are few."""
    monkeypatch.setattr(publisher_module, "_LINGER_SECONDS", 0.3)
    async with Running(client, sink) as publisher:
        for number in range(100):  # while the publisher finds its place, and on
            sink.append([access(number)])
            await asyncio.sleep(0)
        assert await publisher.drain(DEADLINE)
    assert len(segments_on(server)) <= 6
    assert on_stream(server) == lines_on_disk(folder)


async def test_records_of_another_thread_are_published(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """The worker syncs large batches in a thread; the publisher wakes up all the same."""
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
        await asyncio.to_thread(sink.append, [access()])
        assert not publisher.is_caught_up
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_rotation_leaves_no_gap(client: Redis, server: redis.Redis, folder: Path) -> None:
    """The publisher follows the chain from file to file, and from chain to chain."""
    sink = open_sink(folder, max_file_bytes=1000)
    async with Running(client, sink) as publisher:
        for number in range(10):
            sink.append([access(number)])
        sink._abandon()
        sink.append([access(99)])
        assert await publisher.drain(DEADLINE)
    sink.close()
    assert len(list_files(folder)) > 3
    assert on_stream(server) == lines_on_disk(folder)


async def test_what_a_crash_left_in_the_file_is_published_at_the_start(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Only what the stream does not have is published again."""
    async with Running(client, sink) as publisher:
        sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
    sink.append([access(2)])
    sink.append([access(3)])
    sink.close()
    again = open_sink(folder)
    async with Running(client, again) as publisher:
        assert await publisher.drain(DEADLINE)
    again.close()
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_stream_that_ends_in_an_older_chain_is_caught_up(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """The rest of an older chain comes before the newer one."""
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    sink.append([access(2)])
    sink._abandon()
    sink.append([access(3)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_stream_that_was_lost_is_filled_again(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """A server that forgot everything gets all that the stream would keep."""
    sink.append([access(1)] * 300)
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    server.flushall()
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_queue_that_goes_away_costs_nothing(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appending goes on while the queue is away, and the stream is complete when it is back."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.01)
    async with Running(client, sink) as publisher:
        sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
        server.config_set("maxclients", 1)
        server.client_kill_filter(_type="normal", skipme=True)
        sink.append([access(2)])
        assert not await publisher.drain(0.2)
        server.config_set("maxclients", 10_000)
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_full_server_is_tried_again(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server out of memory refuses the stream; nothing is lost by it."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.01)
    try:
        server.config_set("maxmemory", 1)
        async with Running(client, sink) as publisher:
            sink.append([access(1)])
            assert not await publisher.drain(0.2)
            server.config_set("maxmemory", 0)
            assert await publisher.drain(DEADLINE)
    finally:
        server.config_set("maxmemory", 0)
    assert on_stream(server) == lines_on_disk(folder)


async def test_what_piled_up_goes_to_the_server_a_few_entries_at_a_time(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is, one write never holds all of it."""
    sizes: list[int] = []
    sink.append([access(1)] * (20 * MAX_SEGMENT_LINES))
    async with Running(client, sink) as publisher:
        append = publisher._stream.append

        async def counted(segments: Sequence[ChainSegment]) -> None:
            sizes.append(len(segments))
            await append(segments)

        monkeypatch.setattr(publisher._stream, "append", counted)
        assert await publisher.drain(DEADLINE)
    assert (max(sizes), sum(sizes)) == (8, len(segments_on(server)))
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_server_that_refuses_one_entry_takes_none_behind_it(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was full for a moment and has room for the next leaves no hole in the stream."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.01)
    real, refused = Pipeline.xadd, list[object]()

    def refused_once(pipeline: Any, name: Any, fields: Any) -> Any:
        if refused:
            return real(pipeline, name, fields)
        refused.append(name)
        return pipeline.execute_command("XADD", name)  # refused when it comes, as one for which there is no room

    monkeypatch.setattr(Pipeline, "xadd", refused_once)
    sink.append([access(1)] * (3 * MAX_SEGMENT_LINES))
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert refused
    assert on_stream(server) == lines_on_disk(folder)


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
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Whatever lies on the stream, every line is published, and verification says that there is more than ours."""
    hostile = hostile_entries(sink)
    for fields in hostile.values():
        put(server, fields)
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)
    report = verify_folder(folder, IDENTITY, read_stream(server))
    assert report.ok
    assert [finding.fault for finding in report.findings] == [Fault.UNKNOWN_ENTRY]
    assert f"{len(hostile) - 2}, the first" in report.findings[0].detail  # two are well-formed


async def test_hostile_entries_behind_ours_do_not_hide_where_we_were(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """The newest entry that can be this worker's is looked for behind them, so nothing comes twice."""
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    for fields in hostile_entries(sink).values():
        put(server, fields)
    sink.append([access(2)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_the_newest_event_is_found_behind_those_of_other_workers(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Pages of others' entries are read over until this worker's own turns up."""
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    put_others(server, 200)
    sink.append([access(2)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_the_search_for_the_newest_event_ends(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Behind more than a stream may hold nothing is looked for: it is published again instead."""
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    put_others(server, 1000)
    async with Running(client, sink, keep_bytes=100_000) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == [*lines_on_disk(folder), *lines_on_disk(folder)]


async def test_old_events_do_not_push_out_newer_ones(client: Redis, server: redis.Redis, sink: JsonlSink) -> None:
    """A worker that comes back to a full stream without its own events publishes none that are older than it."""
    sink.append([access(1, at=START)] * 50)
    put_others(server, 200, at=START + 1000)
    sink.append([access(2, at=START + 2000)])
    async with Running(client, sink, keep_bytes=size_of(server)) as publisher:
        assert await publisher.drain(DEADLINE)
    assert [decode_line(line).run_id for line in on_stream(server)] == ["run-2", None]


async def test_old_events_are_published_as_far_as_there_is_room(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Another worker's newer entry on a stream that was lost keeps nobody from filling it again."""
    sink.append([access(1, at=START)] * 50)
    put_others(server, 1, at=START + 1000)
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_an_entry_of_no_possible_time_keeps_nothing_from_the_stream(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Who chooses an entry's id cannot stop the publisher with it."""
    put(server, {b"x": b"y"}, f"{10**15}-0")
    sink.append([access(1)] * 10)
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == lines_on_disk(folder)


async def test_the_stream_keeps_within_its_bytes(client: Redis, server: redis.Redis, sink: JsonlSink) -> None:
    """It is trimmed by what it takes of the server's memory, however much larger new entries are than old ones."""
    put_others(server, 2000)
    keep = 2 * MEBIBYTE
    async with Running(client, sink, keep_bytes=keep) as publisher:
        for number in range(8):
            sink.append([access(number, purpose="p" * 7500)] * 140)
            assert await publisher.drain(DEADLINE)
            assert size_of(server) < keep + 1.5 * MEBIBYTE
    runs = {decode_line(line).run_id for line in on_stream(server)}
    assert "run-7" in runs
    assert "run-0" not in runs
    assert size_of(server) > keep // 2


async def test_no_more_is_published_again_than_the_stream_keeps(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """A stream that was lost is filled with the newest."""
    sink.append([access(1)] * 500)
    sink.append([access(2)] * 20)
    newest = lines_on_disk(folder)[-21:]
    async with Running(client, sink, keep_bytes=sum(map(len, newest)) + len(newest)) as publisher:
        assert await publisher.drain(DEADLINE)
    assert on_stream(server) == newest


async def test_a_stream_that_is_too_large_is_trimmed_at_the_start(
    client: Redis, server: redis.Redis, sink: JsonlSink
) -> None:
    """Also when the server is too full for a single new entry."""
    put_others(server, 5000)
    async with Running(client, sink, keep_bytes=10_000) as publisher:
        assert await publisher.drain(DEADLINE)
    assert size_of(server) < 20_000


async def test_a_defect_is_logged_and_does_not_end_the_publisher(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised, the task goes on after a pause; the log has its type once, and never its text."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.001)
    errors: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(publisher_module._log, "error", lambda text, **more: errors.append((text, more)), raising=False)
    failures = iter([LookupError("s3cret"), LookupError("s3cret"), RuntimeError("s3cret")])

    async with Running(client, sink) as publisher:
        append = publisher._stream.append

        async def fail_first(segments: Sequence[ChainSegment]) -> None:
            for failure in failures:
                raise failure
            await append(segments)

        monkeypatch.setattr(publisher._stream, "append", fail_first)
        sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
    assert [more for _, more in errors] == [{"error": "LookupError"}, {"error": "RuntimeError"}]
    assert on_stream(server) == lines_on_disk(folder)


async def test_a_file_that_shrinks_under_the_publisher_does_not_spin(
    client: Redis, sink: JsonlSink, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated file is waited for like a queue that is away."""
    sink.append([access(1)] * 10)
    path = sink.position.file.path
    path.write_bytes(b"")
    warnings: list[str] = []
    monkeypatch.setattr(publisher_module._log, "warning", lambda text, **_: warnings.append(text), raising=False)
    async with Running(client, sink) as publisher:
        assert not await publisher.drain(0.2)
    assert len(warnings) == 1


class ForgetfulClient:
    """A client that answers as if nothing had been when its call is cancelled."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def memory_usage(self, *_: object, samples: int) -> int:
        self.asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return samples


async def test_a_cancellation_that_the_client_swallows_still_ends_the_publisher(sink: JsonlSink) -> None:
    """redis-py on Python 3.11 can forget a cancellation; a worker that drains must not wait for ever."""
    client = ForgetfulClient()
    task = asyncio.create_task(AuditPublisher(cast("Redis", client), sink).run())
    await client.asked.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=DEADLINE)
    assert done
    assert task.cancelled()


async def test_the_stream_and_the_files_verify_together(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """What `audit verify --stream` reads from a real server agrees with the files."""
    async with Running(client, sink) as publisher:
        for number in range(3):
            sink.append([access(number)] * 700)
        assert await publisher.drain(DEADLINE)
    report = verify_folder(folder, IDENTITY, read_stream(server))
    assert report.findings == []


def test_an_unreachable_stream_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A queue that is away cannot be compared with."""
    with (
        redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(QueueError, match="cannot read the audit stream") as caught,
    ):
        list(read_stream(client))
    assert "doctor" in caught.value.hint


# --- finding the place in the files --------------------------------------------------------------------------------


def line_at(position: Position) -> int:
    """The sequence of the line that stands at a position."""
    with position.file.path.open("rb") as file:
        file.seek(position.offset)
        return decode_line(file.readline()[:-1]).sequence


def end_of(files: list[ChainFile]) -> Position:
    """The position after the last line."""
    lines = read_log(files[-1].path)
    return Position(files[-1], files[-1].path.stat().st_size, files[-1].first + len(lines))


def test_the_position_after_a_line_is_found_in_whichever_file(folder: Path) -> None:
    """Also when the line is the last of its file, or its file is gone."""
    write_log(folder, batches=4, max_file_bytes=1000)
    files = list_files(folder)
    chain = files[0].chain
    for sequence in (0, 1, 3, 7, 10):
        found = position_after(files, chain, sequence)
        assert found is not None
        assert line_at(found) == found.sequence == sequence + 1
    assert position_after(files, chain, 11) == end_of(files)
    assert position_after(files[2:], chain, 1) == Position(files[2], 0, 6)
    assert position_after(files, "f" * 16, 1) is None


def test_going_back_counts_bytes_over_files(folder: Path) -> None:
    """The longest tail of whole lines that has no more bytes, whichever file it begins in."""
    write_log(folder, batches=4, max_file_bytes=1000)
    files = list_files(folder)
    sizes = [len(line) + 1 for line in lines_on_disk(folder)]
    end = end_of(files)
    for sequence in range(len(sizes)):
        tail = sum(sizes[sequence:])
        for size, expected in ((tail, sequence), (tail - 1, sequence + 1), (tail + 1, sequence)):
            found = position_before(files, end, size)
            assert found.sequence == expected
            assert found.sequence == end.sequence or line_at(found) == expected
    assert position_before(files, end, 0) == end
    assert position_before(files, end, 10**9) == Position(files[0], 0, 0)


def test_older_lines_are_skipped_by_their_time(folder: Path) -> None:
    """The first line that is not older, also over files; the end if all are."""
    sink = open_sink(folder, max_file_bytes=1000)
    for number in range(6):
        sink.append([access(number, at=START + number * 1000)] * 3)
    sink.close()
    files = list_files(folder)
    begin = Position(files[0], 0, 0)
    found = skip_older(begin, sink.position, format_time(START + 3000))
    assert line_at(found) == found.sequence == 12
    assert skip_older(begin, sink.position, format_time(START + 10**6)) == sink.position


def test_nothing_behind_the_writer_is_read(folder: Path) -> None:
    """Bytes that are not synced yet do not leave the file."""
    path = write_log(folder, batches=2)
    (file,) = list_files(folder)
    size = len(read_log(path)[0]) + 1
    lines, after = read_lines(Position(file, 0, 0), Position(file, size, 1), 100, MEBIBYTE)
    assert (list(lines), after.sequence) == (read_log(path)[:1], 1)
    assert read_lines(after, Position(file, size, 1), 100, MEBIBYTE) == ((), after)
    assert read_lines(after, Position(file, 0, 0), 100, MEBIBYTE) == ((), after)


def test_a_file_that_is_gone_leads_to_the_writers_own(folder: Path) -> None:
    """When there is no file between, reading goes on where the writer is."""
    write_log(folder, batches=1)
    (file,) = list_files(folder)
    end = Position(chain_file(folder, "worker-1", "f" * 16, 0), 0, 0)
    assert read_lines(Position(file, file.path.stat().st_size, 3), end, 10, MEBIBYTE) == ((), Position(end.file, 0, 0))
