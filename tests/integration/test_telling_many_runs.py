"""One order about what very many runs hold: it holds at once, and telling them all holds up nobody."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import IDENTITY, NOW, DeskBench, until
from people_desk import GUARDED, SESSION, asked, bench_with, order
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as QueueAway
from redis.exceptions import OutOfMemoryError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Notice, Resolve
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.leases import Holding
from broker_worker.pipeline.letters import Letter
from broker_worker.pipeline.session import LIFETIME_MS, Nonces, start_session
from broker_worker.worker.control_tail import ControlTail
from broker_worker.worker.outbox import AT_ONCE, Outbox

MANY = 20 * AT_ONCE
TOLD = Notice("lease_revoked", NOW, name="openai.api_key", lease_id=bytes(16))


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Any]:
    """A queue without older matters."""
    async with Redis.from_url(valkey_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[Letter]:
    """The notices that were sealed so far."""
    seal, found = Letter.seal, list[Letter]()

    def counted(letter: Letter, *arguments: Any) -> bytes:
        found.append(letter)
        return seal(letter, *arguments)

    monkeypatch.setattr(Letter, "seal", counted)
    return found


def lend_to_many(bench: DeskBench) -> None:
    """As many runs hold the same secret."""
    leases = bench.affairs.leases
    for number in range(MANY):
        key = run_public_key(secrets.token_bytes(32))
        lease = leases._mint.issue("claude", key, "openai.api_key", "7", NOW, NOW + 600_000)
        leases.book.note(Holding("claude", f"run-{number}", f"token-{number}", key, lease, NOW + 300_000))


def outbox(client: Any) -> Outbox:
    return Outbox(client, lambda: SESSION, Nonces(secrets.token_bytes))


def letters(number: int) -> list[Letter]:
    return [Letter(TOLD, "claude", run_public_key(secrets.token_bytes(32))) for _ in range(number)]


async def test_requests_are_answered_before_all_notices_are_sealed(
    tmp_path: Path, redis: Any, sealed: list[Letter]
) -> None:
    """The order is in force and recorded before the first is told; in the end every run is."""
    bench, stopping = DeskBench(tmp_path / "config"), asyncio.Event()
    lend_to_many(bench)
    run, other = bench.run(), bench.run("codex")
    tail = ControlTail(redis, "worker-1-0", bench.desk, bench.writer, lambda *_: None, bench.clock, stopping)
    bench.orders.new.append(order("secret", "openai.api_key"))
    tasks = [asyncio.create_task(loop()) for loop in (tail.look, tail.attend)]
    await until(lambda: sealed)
    assert len(bench.affairs.leases.book) == 0
    assert len(bench.sink.of("lease_ended")) == MANY
    refused = await bench.ask(run, body=Resolve(("openai.api_key",)))
    granted = await bench.ask(other, body=Resolve(("github.read_token",)))
    assert (refused.results[0].code, granted.status) == (Code.REVOKED, "ok")
    assert len(sealed) < MANY
    await until(lambda: len(sealed) == MANY and not tail._outbox)
    stopping.set()
    await asyncio.gather(*tasks)
    assert len({letter.reply_stream for letter in sealed}) == MANY
    assert all([await redis.xlen(letter.reply_stream) == 1 for letter in sealed])


async def test_people_are_asked_before_all_runs_are_told(tmp_path: Path, redis: Any, sealed: list[Letter]) -> None:
    """What an operator or an approver is to see does not stand behind thousands of notices."""
    bench = bench_with(tmp_path / "config", "once")
    tail = ControlTail(redis, "worker-1-0", bench.desk, bench.writer, lambda *_: None, bench.clock, asyncio.Event())
    tail.send(letters(MANY))
    await bench.ask(bench.run(), GUARDED)
    assert len(asked(bench)) == 1
    await tail._act()
    assert await redis.xlen(keynames.APPROVALS) == 1
    assert len(sealed) == AT_ONCE


class BreaksOnce:
    """The queue, whose connection breaks once, after it took what was sent."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.is_broken = False

    def pipeline(self, **options: Any) -> Any:
        """The client's own, broken the first time."""
        made = self._client.pipeline(**options)
        execute = made.execute

        async def breaking(**options: Any) -> Any:
            result = await execute(**options)
            if not self.is_broken:
                self.is_broken = True
                raise QueueAway("it is away")
            return result

        made.execute = breaking
        return made


async def test_a_notice_whose_fate_is_not_known_is_sent_again_as_it_was(redis: Any, sealed: list[Letter]) -> None:
    """So a run that has it already knows it by its bytes; none is lost, and none is sealed twice."""
    box, sent = outbox(BreaksOnce(redis)), letters(AT_ONCE + 1)
    box.add(sent)
    with pytest.raises(QueueAway):
        await box.send_some()
    assert len(box) == len(sent)
    while box:
        await box.send_some()
    assert sealed == sent
    for letter in sent[:AT_ONCE]:
        (_, first), (_, again) = await redis.xrange(letter.reply_stream)
        assert first == again
    assert await redis.xlen(sent[-1].reply_stream) == 1


async def test_a_run_that_cannot_be_told_keeps_no_notice_from_others(redis: Any) -> None:
    """The key of a static token is nobody's, and something else can have the name of a run's stream."""
    box, (first, spoiled, last) = outbox(redis), letters(3)
    await redis.set(spoiled.reply_stream, b"junk")
    nobody = [Letter(TOLD, "claude", bytes(32))] * (AT_ONCE + 1)
    box.add([first, *nobody, spoiled, last])
    while box:
        await box.send_some()
    assert [await redis.xlen(each.reply_stream) for each in (first, last)] == [1, 1]
    assert await redis.get(spoiled.reply_stream) == b"junk"


async def test_notices_that_waited_for_the_queue_are_sealed_with_the_session_key_of_their_time(redis: Any) -> None:
    """The certificate of the key before may be over by then, and what is sealed with it is believed by nobody."""
    later = start_session(IDENTITY, "worker-1", NOW + LIFETIME_MS, secrets.token_bytes(32))
    sessions = [SESSION, later]
    box, sent = Outbox(BreaksOnce(redis), lambda: sessions[0], Nonces(secrets.token_bytes)), letters(AT_ONCE + 1)
    box.add(sent)
    with pytest.raises(QueueAway):
        await box.send_some()
    sessions.pop(0)
    while box:
        await box.send_some()
    for letter in sent:
        *_, (_, last) = await redis.xrange(letter.reply_stream)
        assert later.certificate in last[keynames.MESSAGE_FIELD]


async def test_a_queue_without_memory_for_notices_gets_them_when_it_has_some(redis: Any) -> None:
    """Only what stands under a stream's name for ever is passed over; a stream that is spoiled hides no such answer."""
    box, sent = outbox(redis), letters(AT_ONCE + 1)
    await redis.set(sent[0].reply_stream, b"junk")
    box.add(sent)
    before = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await box.send_some()
    finally:
        await redis.config_set("maxmemory", before)
    while box:
        await box.send_some()
    assert all([await redis.xlen(letter.reply_stream) == 1 for letter in sent[1:]])
