"""The audit stream while a server, a file or a client is in trouble: all of it arrives in the end."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from audit_stream_workbench import DEADLINE, Running, lines_on_disk, on_stream
from audit_workbench import access
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_sdk.wire.audit_stream import MAX_SEGMENT_LINES, ChainSegment
from broker_worker.audit import publisher as publisher_module
from broker_worker.audit.publisher import AuditPublisher
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.stream import read_stream
from broker_worker.core.errors import QueueError


async def test_a_queue_that_goes_away_costs_nothing(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Appending goes on while the queue is away, and the stream is complete when it is back."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.01)
    async with Running(stream_client, audit_sink) as publisher:
        audit_sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
        stream_server.config_set("maxclients", 1)
        stream_server.client_kill_filter(_type="normal", skipme=True)
        audit_sink.append([access(2)])
        assert not await publisher.drain(0.2)
        stream_server.config_set("maxclients", 10_000)
        assert await publisher.drain(DEADLINE)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_full_server_is_tried_again(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server out of memory refuses the stream; nothing is lost by it."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.01)
    try:
        stream_server.config_set("maxmemory", 1)
        async with Running(stream_client, audit_sink) as publisher:
            audit_sink.append([access(1)])
            assert not await publisher.drain(0.2)
            stream_server.config_set("maxmemory", 0)
            assert await publisher.drain(DEADLINE)
    finally:
        stream_server.config_set("maxmemory", 0)
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_server_that_refuses_one_entry_takes_none_behind_it(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    audit_sink.append([access(1)] * (3 * MAX_SEGMENT_LINES))
    async with Running(stream_client, audit_sink) as publisher:
        assert await publisher.drain(DEADLINE)
    assert refused
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_defect_is_logged_and_does_not_end_the_publisher(
    stream_client: Redis,
    stream_server: redis.Redis,
    audit_sink: JsonlSink,
    audit_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is raised, the task goes on after a pause; the log has its type once, and never its text."""
    monkeypatch.setattr(publisher_module, "_FIRST_DELAY", 0.001)
    errors: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(publisher_module._log, "error", lambda text, **more: errors.append((text, more)), raising=False)
    failures = iter([LookupError("s3cret"), LookupError("s3cret"), RuntimeError("s3cret")])

    async with Running(stream_client, audit_sink) as publisher:
        append = publisher._stream.append

        async def fail_first(segments: Sequence[ChainSegment]) -> None:
            for failure in failures:
                raise failure
            await append(segments)

        monkeypatch.setattr(publisher._stream, "append", fail_first)
        audit_sink.append([access(1)])
        assert await publisher.drain(DEADLINE)
    assert [more for _, more in errors] == [{"error": "LookupError"}, {"error": "RuntimeError"}]
    assert on_stream(stream_server) == lines_on_disk(audit_folder)


async def test_a_file_that_shrinks_under_the_publisher_does_not_spin(
    stream_client: Redis, audit_sink: JsonlSink, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated file is waited for like a queue that is away."""
    audit_sink.append([access(1)] * 10)
    path = audit_sink.position.file.path
    path.write_bytes(b"")
    warnings: list[str] = []
    monkeypatch.setattr(publisher_module._log, "warning", lambda text, **_: warnings.append(text), raising=False)
    async with Running(stream_client, audit_sink) as publisher:
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


async def test_a_cancellation_that_the_client_swallows_still_ends_the_publisher(audit_sink: JsonlSink) -> None:
    """redis-py on Python 3.11 can forget a cancellation; a worker that drains must not wait for ever."""
    client = ForgetfulClient()
    task = asyncio.create_task(AuditPublisher(cast("Redis", client), audit_sink).run())
    await client.asked.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=DEADLINE)
    assert done
    assert task.cancelled()


def test_an_unreachable_stream_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A queue that is away cannot be compared with."""
    with (
        redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(QueueError, match="cannot read the audit stream") as caught,
    ):
        list(read_stream(client))
    assert "doctor" in caught.value.hint
