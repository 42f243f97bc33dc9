"""What whoever owns the queue, or a dashboard that was taken over, does to the streams on which people decide."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import DeskBench, until
from people_desk import GUARDED, IDENTITY_PUBLIC, POLICY, asked, bench_with, order
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve
from broker_worker.core.approvals import open_request
from broker_worker.people import inbox as inbox_module
from broker_worker.people.inbox import Inbox
from broker_worker.worker.control_tail import ControlTail

HUGE = f"{2**64 - 1}-{2**64 - 1}"


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Any]:
    """A queue without older matters."""
    async with Redis.from_url(valkey_url) as client:
        await client.delete(keynames.APPROVALS, keynames.CONTROL, keynames.REPORTS)
        yield client
        await client.delete(keynames.APPROVALS, keynames.CONTROL, keynames.REPORTS)


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk whose approvals are good once."""
    return bench_with(tmp_path, "once")


def tail_of(bench: DeskBench, client: Any) -> ControlTail:
    return ControlTail(client, "worker-1-0", bench.desk, bench.writer, lambda *_: None, bench.clock, asyncio.Event())


@contextlib.asynccontextmanager
async def running(tail: ControlTail) -> AsyncIterator[None]:
    """The loops of a worker around it: each is begun again when it fails."""

    async def repeat(loop: Any) -> None:
        while not tail._stopping.is_set():  # redis-py may swallow a cancellation
            with contextlib.suppress(Exception):
                await loop()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(repeat(loop)) for loop in (tail.look, tail.listen, tail.attend)]
    try:
        yield
    finally:
        tail._stopping.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SilentQueue:
    """Takes every question and answers none."""

    def __getattr__(self, name: str) -> Any:
        async def never(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        return never


async def test_a_queue_that_does_not_answer_holds_up_no_revocation(bench: DeskBench) -> None:
    """What stands in the broker's file holds, whether or not a notice or a question can be sent."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    async with running(tail_of(bench, SilentQueue())):
        await asyncio.sleep(0.05)
        bench.orders.new.append(order("agent", "claude"))
        await until(lambda: bench.affairs.revocations.of_run("claude", "run-1", ""))
    assert (await bench.ask(run, body=Resolve(("openai.api_key",)))).code == Code.REVOKED


@pytest.mark.parametrize("harm", ["huge id", "huge id, removed", "another type"])
async def test_people_are_asked_although_somebody_spoiled_the_stream(bench: DeskBench, redis: Any, harm: str) -> None:
    """Nobody could write there any more; what nobody can use is removed."""
    for stream in (keynames.APPROVALS, keynames.CONTROL):
        if harm == "another type":
            await redis.set(stream, b"junk")
        else:
            await redis.xadd(stream, {"m": b"junk"}, id=HUGE)
        if harm.endswith("removed"):
            await redis.xdel(stream, HUGE)
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    async with running(tail_of(bench, redis)):
        await until(lambda: not bench.affairs.unpublished)
        ((_, fields),) = await until(lambda: redis.xrange(keynames.APPROVALS))
        await redis.xadd(keynames.CONTROL, {"m": b"people can decide again"})
    assert open_request(fields[b"m"], IDENTITY_PUBLIC) == request


async def test_people_see_the_next_question_after_a_spoiled_stream_was_removed(bench: DeskBench, redis: Any) -> None:
    """The dashboard runs for days; it must not wait for an id that never comes."""
    inbox = Inbox(redis, IDENTITY_PUBLIC, lambda: bench.desk.configuration, bench.clock.now)
    await redis.xadd(keynames.APPROVALS, {"m": b"junk"}, id=HUGE)
    await inbox.refresh()
    await redis.delete(keynames.APPROVALS)
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    await redis.xadd(keynames.APPROVALS, {"m": bench.affairs.signed(request)})
    await inbox.refresh()
    assert [item.request for item in inbox.items()] == [request]


class CountedReads:
    """The queue, with how often its streams were read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.reads = 0

    async def xread(self, *arguments: Any, **options: Any) -> Any:
        """As the client's own."""
        self.reads += 1
        return await self._client.xread(*arguments, **options)


async def test_a_spoiled_stream_does_not_keep_the_dashboard_busy(
    bench: DeskBench, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no worker removes it, or this host's clock is behind the queue's, it is read anew once a round."""
    monkeypatch.setattr(inbox_module, "_ROUND_MS", 60_000)
    await redis.xadd(keynames.APPROVALS, {"m": b"junk"}, id=HUGE)
    queue: Any = CountedReads(redis)
    inbox = Inbox(queue, IDENTITY_PUBLIC, lambda: bench.desk.configuration, bench.clock.now)
    watching = asyncio.ensure_future(anext(inbox.watch()))
    await until(lambda: queue.reads == 3)  # twice in the beginning, once in the first round
    for _ in range(50):
        await redis.ping()
    assert queue.reads == 3
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_people_are_asked_again_when_the_queue_forgot_the_question(bench: DeskBench, redis: Any) -> None:
    """The run that waits need not wait until its time is over; nobody is notified twice."""
    await bench.ask(bench.run(), GUARDED)
    async with running(tail_of(bench, redis)):
        await until(lambda: redis.xlen(keynames.APPROVALS))
        await until(lambda: not bench.affairs.unpublished)
        await asyncio.sleep(0.05)  # for `listen` to have read it
        await redis.delete(keynames.APPROVALS, keynames.CONTROL)
        await until(lambda: redis.xlen(keynames.APPROVALS))
    assert len(bench.jobs.jobs) <= 1


async def test_a_question_that_is_late_is_not_shown_beyond_what_a_run_may_ask(bench: DeskBench, redis: Any) -> None:
    """The queue was away, and others took its place meanwhile: it is void, and the run is told to ask anew."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    key = keynames.open_approvals("claude", run.credential.run_id)
    await redis.zadd(key, {f"other {number}": bench.clock.now() + 60_000 for number in range(5)})
    async with running(tail_of(bench, redis)):
        await until(lambda: bench.sink.of("approval_settled"))
        assert not await redis.xlen(keynames.APPROVALS)
        await until(lambda: redis.xlen(run.channel.replies))
        await redis.delete(key)
        assert (await bench.ask(run, GUARDED)).results[0].code == Code.APPROVAL_PENDING
        await until(lambda: redis.xlen(keynames.APPROVALS))
    assert [record.reason for record in bench.sink.of("approval_settled")] == ["void"]
    assert await redis.zscore(key, request.approval_id) is None


class BreakingQueue:
    """The queue, whose connection breaks whenever several things are put there at once, until it is mended."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.breaks = 0
        self.is_mended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pipeline(self, **options: Any) -> Any:
        """As the client's own."""
        if not self.is_mended:
            self.breaks += 1
            raise RedisConnectionError("the connection to the queue broke")
        return self._client.pipeline(**options)


async def test_a_question_that_could_not_be_put_onto_the_queue_is_put_there_later(bench: DeskBench, redis: Any) -> None:
    """However often it breaks in between; nobody is notified of what cannot be seen yet, and then once."""
    targets = "provider: {type: local}\nnotifications: [{name: bell, kind: command, command: [/bin/true]}]\n"
    bench.load(policy=POLICY % "once", broker=targets)
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    queue = BreakingQueue(redis)
    async with running(tail_of(bench, queue)):
        await until(lambda: queue.breaks >= 3)
        assert not await redis.xlen(keynames.APPROVALS)
        assert (asked(bench), bench.jobs.jobs) == ([request], [])
        queue.is_mended = True
        ((_, fields),) = await until(lambda: redis.xrange(keynames.APPROVALS))
        await until(lambda: not asked(bench))
    assert open_request(fields[b"m"], IDENTITY_PUBLIC) == request
    assert [job for job, _ in bench.jobs.jobs] == ["notify_approval"]


async def test_what_has_the_name_of_a_count_stops_nobody(bench: DeskBench, redis: Any) -> None:
    """Whoever owns the queue put something else there: people are asked all the same."""
    run = bench.run()
    await redis.set(keynames.open_approvals("claude", run.credential.run_id), "junk")
    await bench.ask(run, GUARDED)
    async with running(tail_of(bench, redis)):
        await until(lambda: redis.xlen(keynames.APPROVALS))


async def test_an_entry_that_cannot_be_taken_does_not_come_for_ever(bench: DeskBench, redis: Any) -> None:
    """Whatever defect it meets: what stands behind it is read."""
    taken: list[bytes] = []

    def take(raw: bytes, *_: Any) -> list[Any]:
        taken.append(raw)
        if raw == b"poison":
            raise ZeroDivisionError
        return []

    bench.affairs.take_control = take  # type: ignore[method-assign,assignment]  # a fault is put in its place
    for raw in (b"poison", b"good"):
        await redis.xadd(keynames.CONTROL, {"m": raw})
    async with running(tail_of(bench, redis)):
        await until(lambda: b"good" in taken)
    assert taken == [b"poison", b"good"]


async def test_others_have_their_turn_while_a_flood_is_taken(bench: DeskBench, redis: Any) -> None:
    """A page of the control stream does not stop the worker."""
    turns = 0
    at: list[int] = []

    def take(*_: Any) -> list[Any]:
        at.append(turns)
        return []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    bench.affairs.take_control = take  # type: ignore[method-assign,assignment]  # a fault is put in its place
    async with redis.pipeline() as pipeline:
        for _ in range(400):
            pipeline.xadd(keynames.CONTROL, {"m": b"junk"})
        await pipeline.execute()
    task = asyncio.create_task(others())
    async with running(tail_of(bench, redis)):
        await until(lambda: len(at) == 400)
    task.cancel()
    assert at[399] - at[0] >= 20
