"""The audit stream on a real server: complete, in order, and caught up after whatever happened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis
from audit_workbench import IDENTITY, START, access, open_sink, read_log, write_log
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import decode_line, format_time
from broker_worker.audit import publisher as publisher_module
from broker_worker.audit.chain_files import ChainFile, Position, chain_file, list_files, read_lines
from broker_worker.audit.position import position_after, position_before, skip_older
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import QueueError

DEADLINE = 15.0


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

    def __init__(self, client: Redis, sink: JsonlSink, keep: int = 100_000) -> None:
        self.publisher = AuditPublisher(client, sink, keep=keep)

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
    """The lines on the stream; each entry's id must be that of its line."""
    entries = list(read_stream(server))
    assert all(stated == decode_line(line).event_id for stated, line in entries)
    return [line for _, line in entries]


async def test_every_line_is_published_once_and_in_order(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Records and checkpoints reach the stream as they are on disk."""
    async with Running(client, sink) as publisher:
        for number in range(5):
            sink.append([access(number)] * 100)
        assert await publisher.drain(DEADLINE)
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


async def test_an_entry_that_lies_about_the_future_is_not_believed(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """An event id beyond the end of the file does not make the publisher skip what is there."""
    chain = sink.position.file.chain
    server.xadd(keynames.AUDIT, {"e": f"{chain}-{10**9:012d}", "d": b"{}"})
    server.xadd(keynames.AUDIT, {"e": f"{chain}-x", "d": b"{}"})
    server.xadd(keynames.AUDIT, {"other": b"\xff"})
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert [line for _, line in read_stream(server)][3:] == lines_on_disk(folder)


async def test_the_newest_event_is_found_behind_those_of_other_workers(
    client: Redis, server: redis.Redis, sink: JsonlSink, folder: Path
) -> None:
    """Pages of others' entries are read over until this worker's own turns up."""
    sink.append([access(1)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    with server.pipeline(transaction=False) as pipeline:
        for number in range(1200):
            pipeline.xadd(keynames.AUDIT, {"e": f"{'f' * 16}-{number:012d}", "d": b"{}"})
        pipeline.execute()
    sink.append([access(2)])
    async with Running(client, sink) as publisher:
        assert await publisher.drain(DEADLINE)
    mine = [line for _, line in read_stream(server) if line != b"{}"]
    assert mine == lines_on_disk(folder)


async def test_the_stream_is_bounded_and_old_events_do_not_push_out_newer_ones(
    client: Redis, server: redis.Redis, sink: JsonlSink
) -> None:
    """A worker that comes back to a full stream without its own events publishes none that are older than it."""
    sink.append([access(1, at=START)] * 50)
    with server.pipeline(transaction=False) as pipeline:
        for number in range(200):
            pipeline.xadd(keynames.AUDIT, {"e": f"{'f' * 16}-{number:012d}", "d": b"{}"}, id=f"{START + 1000}-{number}")
        pipeline.execute()
    sink.append([access(2, at=START + 2000)])
    async with Running(client, sink, keep=100) as publisher:
        assert await publisher.drain(DEADLINE)
    runs = [decode_line(line).run_id for _, line in read_stream(server) if line != b"{}"]
    assert runs == ["run-2", None]
    assert server.xlen(keynames.AUDIT) < 202


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

    def register_script(self, _: str) -> None:
        """No script is ever run."""

    async def xrevrange(self, *_: object, count: int) -> list[object]:
        self.asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return []


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


@pytest.mark.parametrize(("lines", "sequence"), [(1, 11), (3, 9), (4, 8), (12, 0), (100, 0)])
def test_going_back_counts_lines_over_files(folder: Path, lines: int, sequence: int) -> None:
    """So many lines before the end, or the first there is."""
    write_log(folder, batches=4, max_file_bytes=1000)
    files = list_files(folder)
    found = position_before(files, end_of(files), lines)
    assert line_at(found) == found.sequence == sequence


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
    lines, after = read_lines(Position(file, 0, 0), Position(file, size, 1), 100)
    assert (list(lines), after.sequence) == (read_log(path)[:1], 1)
    assert read_lines(after, Position(file, size, 1), 100) == ((), after)
    assert read_lines(after, Position(file, 0, 0), 100) == ((), after)


def test_a_file_that_is_gone_leads_to_the_writers_own(folder: Path) -> None:
    """When there is no file between, reading goes on where the writer is."""
    write_log(folder, batches=1)
    (file,) = list_files(folder)
    end = Position(chain_file(folder, "worker-1", "f" * 16, 0), 0, 0)
    assert read_lines(Position(file, file.path.stat().st_size, 3), end, 10) == ((), Position(end.file, 0, 0))
