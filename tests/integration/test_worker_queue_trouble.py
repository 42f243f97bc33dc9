"""What a queue can do to a worker: go away, forget, lie, fill up. Nothing is released wrongly; service comes back."""

import asyncio
import os
import shutil
import signal
from typing import Any

import pytest
from broker_home import Home, server_of
from desk_workbench import LONG, until
from fake_vault import FakeVault
from redis import Redis

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted
from agent_sdk.wire import keynames
from broker_worker.core.hot_set import NOBODY
from broker_worker.queue.streams import MAX_DELIVERIES

CLAUDE = keynames.requests("claude")
WIDE = """
    limits: {agent: {rate: 1000/s, burst: 1000}, run: {rate: 1000/s, burst: 1000}}
    agents: {claude: {allow: [openai.api_key]}}
"""
HUGE = "18446744073709551615-18446744073709551615"


@pytest.fixture
def admin(valkey_url: str) -> Any:
    """Whoever owns the queue: may do anything."""
    with Redis.from_url(valkey_url, protocol=2) as client:
        yield client


async def served(client: AsyncSecretBroker, seconds: float = LONG) -> None:
    """Ask until there is an answer."""

    async def ask() -> bool:
        try:
            return (await client.get("openai.api_key", timeout=0.5)).reveal() == "value of openai"
        except NotGranted:
            return False

    await until(ask, seconds)


# --- gone, and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_its_data", [True, False])
async def test_a_server_that_is_killed_and_restarted(embedded_home: Home, keeps_its_data: bool) -> None:
    """With its data or without: the next good request is answered, by the same worker to the same client."""
    server = server_of(embedded_home)
    server.start()
    try:
        async with embedded_home.working(), embedded_home.client() as claude:
            await served(claude)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: server.pid is None)
            if not keeps_its_data:
                shutil.rmtree(embedded_home.settings.run_dir / "valkey")
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await served(claude)
    finally:
        await asyncio.to_thread(server.stop)
    embedded_home.check_audit()


async def test_requests_in_flight_survive_a_restart_of_the_server(embedded_home: Home) -> None:
    """What waits for a vault while the queue restarts is answered when it is back."""
    server, vault = server_of(embedded_home), FakeVault()
    server.start()
    try:
        vault.gate = asyncio.Event()
        async with embedded_home.working(vault), embedded_home.client() as claude:
            asks = [asyncio.create_task(claude.get("openai.api_key")) for _ in range(20)]
            await until(lambda: vault.calls)
            await asyncio.to_thread(server.stop)
            vault.gate.set()
            await asyncio.to_thread(server.start)
            assert {secret.reveal() for secret in await asyncio.gather(*asks)} == {"value of openai"}
    finally:
        await asyncio.to_thread(server.stop)


async def test_connections_that_are_cut_lose_no_request(home: Home, admin: Any) -> None:
    """Again and again, whichever of the worker's connections it is."""
    home.write(policy=WIDE)
    async with home.working() as process, home.client() as claude:
        await served(claude)
        asks = [asyncio.create_task(claude.get("openai.api_key")) for _ in range(60)]
        for suffix in ("main", "side", "control") * 2:
            for info in await asyncio.to_thread(admin.client_list):
                if info["name"] == f"{process.worker.consumer}-{suffix}":
                    await asyncio.to_thread(admin.client_kill_filter, _id=info["id"])
            asks += [asyncio.create_task(claude.get("openai.api_key")) for _ in range(10)]
            await asyncio.sleep(0)
        assert {secret.reveal() for secret in await asyncio.gather(*asks)} == {"value of openai"}


# --- a queue that forgets ----------------------------------------------------------------------------------------


async def test_a_queue_that_is_wiped_under_way_serves_again(home: Home, admin: Any) -> None:
    """Streams and groups are made again; whoever asks next is answered."""
    async with home.working(), home.client() as claude, home.client("codex") as codex:
        for _ in range(5):
            noise = [asyncio.create_task(claude.get("openai.api_key", timeout=0.2)) for _ in range(20)]
            await asyncio.to_thread(admin.flushall)
            await asyncio.gather(*noise, return_exceptions=True)
            await served(codex)
            await served(claude)


async def test_a_recorded_request_is_refused_after_the_marks_are_gone(home: Home, admin: Any) -> None:
    """The worker itself remembers; the audit says that the queue is not to be trusted."""
    run = home.run()
    async with home.working():
        envelope = run.sealed("openai.api_key")
        with run.connect() as redis:
            run.write(redis, envelope)
            await until(lambda: home.records("access"))
            admin.delete(*admin.keys("sb:seen:*"))
            run.write(redis, envelope)
            await until(lambda: home.records("queue_distrusted"))
            await until(lambda: not admin.xlen(CLAUDE))
            assert len(await run.answers(redis)) == 1
    assert [record.reason for record in home.records("queue_distrusted")] == ["replay_mark_lost"]
    assert len(home.records("access")) == 1


async def test_limits_that_are_deleted_still_hold(home: Home, admin: Any) -> None:
    """Deleting their state on the queue does not lift them."""
    home.write(policy="agents: {claude: {allow: [openai.api_key], limits: {run: {rate: 1/h, burst: 3}}}}")
    async with home.working(), home.client() as claude:
        granted = 0
        for _ in range(10):
            admin.delete(*(admin.keys("sb:lim:*") or ["none"]))
            try:
                await claude.get("openai.api_key")
                granted += 1
            except NotGranted:
                pass
        assert granted == 3
    assert {record.reason for record in home.records("queue_distrusted")} == {"limit_state_lost"}


# --- streams that cannot be used ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trimmed", [False, True], ids=["read", "trimmed away at once"])
async def test_an_agent_that_ends_its_own_stream_can_write_again(
    home: Home, trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest possible id: the stream is replaced as soon as it is empty, even if nobody ever read the entry."""
    monkeypatch.setattr("agent_sdk.redis_transport.RING_SECONDS", 0.1)
    run = home.run()
    async with home.working(), home.client() as claude:
        await served(claude)
        with run.connect() as redis:
            if trimmed:
                redis.execute_command("XADD", CLAUDE, "MAXLEN", "0", HUGE, "m", "x")
            else:
                redis.xadd(CLAUDE, {b"m": b"x"}, id=HUGE)
        await served(claude)
        async with home.client("codex") as codex:
            await served(codex)


async def test_a_stream_that_ended_while_no_worker_ran_is_replaced(home: Home, admin: Any) -> None:
    """Whoever starts next looks after it, and answers what still lay in it."""
    await home.set_users()
    run = home.run()
    with run.connect() as redis:
        redis.xadd(CLAUDE, {b"m": run.sealed("openai.api_key")}, id="5-1")
        redis.xadd(CLAUDE, {b"m": b"junk"}, id=HUGE)
        async with home.working(), home.client() as claude:
            await until(lambda: home.records("access"))
            await served(claude)
            assert len(await run.answers(redis)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_something_else_at_a_streams_name_costs_that_agent_only(home: Home, admin: Any, when: str) -> None:
    """The others are served meanwhile, and that agent again when the key is gone."""
    if when == "before":
        admin.set(CLAUDE, "no stream")
    async with home.working(), home.client() as claude, home.client("codex") as codex:
        await served(codex)
        if when == "after":
            await served(claude)
            admin.delete(CLAUDE)
            admin.lpush(CLAUDE, "no stream")
        for _ in range(5):
            assert (await codex.get("openai.api_key", timeout=LONG)).reveal() == "value of openai"
        admin.delete(CLAUDE)
        await served(claude)
        await served(codex)


async def test_entries_where_nobody_writes_do_not_end_the_worker(home: Home, admin: Any) -> None:
    """The stream of nobody, on which an idle worker waits, is no agent's."""
    async with home.working(), home.client() as claude:
        for _ in range(3):
            admin.xadd(keynames.requests(NOBODY), {b"m": b"x"})
            await served(claude)


async def test_huge_entries_are_refused_and_gone(home: Home, admin: Any) -> None:
    """An agent that writes as much as the server takes costs nobody else anything."""
    run = home.run()
    async with home.working(), home.client() as claude, home.client("codex") as codex:
        with run.connect() as redis:
            for _ in range(20):
                redis.xadd(CLAUDE, {b"m": bytes(900_000)})
            redis.xadd(CLAUDE, {b"m": b"x" * 300_000, b"n": b"y" * 300_000})
        await served(codex)
        await served(claude)
        await until(lambda: not admin.xlen(CLAUDE))
    assert {record.reason for record in home.records("unauthenticated")} == {"too_large", "not_one_field"}


# --- what others left --------------------------------------------------------------------------------------------


def left_behind(admin: Any, raw: bytes, deliveries: int = 1) -> None:
    """An entry that a worker took and did not finish before it died."""
    entry = admin.xadd(CLAUDE, {b"m": raw})
    admin.xgroup_create(CLAUDE, keynames.GROUP, "0")
    admin.xreadgroup(keynames.GROUP, "dead", {CLAUDE: ">"}, count=1)
    admin.execute_command("XCLAIM", CLAUDE, keynames.GROUP, "dead", 0, entry, "IDLE", 60_000, "RETRYCOUNT", deliveries)


async def test_what_a_dead_worker_left_is_answered(home: Home, admin: Any) -> None:
    """By whoever finds it, once; and the dead one's name is cleared away in the end."""
    await home.set_users()
    run = home.run()
    left_behind(admin, run.sealed("openai.api_key"))
    with run.connect() as redis:
        async with home.working():
            await until(lambda: home.records("access"))
            await until(lambda: not admin.xlen(CLAUDE))
            assert [reply.status for reply in await run.answers(redis)] == ["ok"]


async def test_what_kills_every_worker_is_given_up(home: Home, admin: Any) -> None:
    """After some workers took it and did not finish, it is refused with a record and gone."""
    await home.set_users()
    left_behind(admin, home.run().sealed("openai.api_key"), deliveries=MAX_DELIVERIES)
    async with home.working():
        await until(lambda: home.records("unauthenticated"))
        await until(lambda: not admin.xlen(CLAUDE))
    assert [record.reason for record in home.records("unauthenticated")] == ["delivered_too_often"]


async def test_what_a_worker_still_works_on_stays_its_own(home: Home, admin: Any) -> None:
    """While a vault is slow the worker says again and again that it is alive, so nobody claims its requests."""
    slow = FakeVault()
    slow.gate = asyncio.Event()

    def pending() -> dict[str, Any]:
        (row,) = admin.xpending_range(CLAUDE, keynames.GROUP, "-", "+", 10)
        return dict(row)

    async with home.working(slow) as process, home.client() as claude:
        ask = asyncio.create_task(claude.get("openai.api_key"))
        await until(lambda: slow.calls)
        await until(lambda: pending()["time_since_delivered"] > 500)
        await until(lambda: pending()["time_since_delivered"] < 500)
        assert pending()["consumer"].decode() == process.worker.consumer
        assert pending()["times_delivered"] == 1
        slow.gate.set()
        assert (await ask).reveal() == "value of openai"


async def test_a_worker_that_stops_leaves_nothing_of_itself(home: Home, admin: Any) -> None:
    """Its name is in no group any more, also not where it waited for anybody and for reports."""

    def consumers() -> list[int]:
        streams = [key for key in (CLAUDE, keynames.requests(NOBODY), keynames.REPORTS) if admin.exists(key)]
        return [each["consumers"] for stream in streams for each in admin.xinfo_groups(stream)]

    async with home.working(), home.client() as claude:
        await served(claude)
        await until(lambda: consumers() == [1, 1, 1])
    assert consumers() == [0, 0, 0]
