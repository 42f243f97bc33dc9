"""Request streams are looked after on the real server, without ever losing an entry."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from desk_workbench import NOW
from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.core.errors import QueueError
from broker_worker.core.hot_set import NOBODY
from broker_worker.ports import Entry
from broker_worker.queue.claims import claim, hold
from broker_worker.queue.connection import QueueConnection
from broker_worker.queue.streams import (
    BATCH,
    MAX_DELIVERIES,
    STREAM_BYTES,
    MissingGroupError,
    group_commands,
    trim_overfull,
)
from broker_worker.queue.upkeep import leave, mend

STREAM = keynames.requests("claude")
HUGE = "18446744073709551615-18446744073709551615"


@pytest.fixture
def admin(valkey_url: str) -> Iterator[Any]:
    with Redis.from_url(valkey_url, protocol=2) as client:
        client.xgroup_create(STREAM, keynames.GROUP, "0", mkstream=True)
        yield client


def take(admin: Any, consumer: str, count: int = 1) -> list[bytes]:
    """Have a consumer take entries, and return their ids."""
    for _ in range(count):
        admin.xadd(STREAM, {b"m": b"x"})
    ((_, entries),) = admin.xreadgroup(keynames.GROUP, consumer, {STREAM: ">"}, count=count)
    return [entry for entry, _ in entries]


def consumers(admin: Any) -> set[str]:
    return {each["name"].decode() for each in admin.xinfo_consumers(STREAM, keynames.GROUP)}


async def test_who_holds_nothing_leaves(connection: QueueConnection, admin: Any) -> None:
    """And nobody else."""
    for name in ("w-1", "w-2"):
        admin.xgroup_createconsumer(STREAM, keynames.GROUP, name)
    await leave(connection, "w-1", ["claude", "codex"])
    assert consumers(admin) == {"w-2"}


async def test_who_holds_an_entry_stays_so_that_it_can_be_claimed(connection: QueueConnection, admin: Any) -> None:
    """Removing a consumer would remove its entries from everybody's sight."""
    (entry,) = take(admin, "w-1")
    await leave(connection, "w-1", ["claude"])
    admin.execute_command("XCLAIM", STREAM, keynames.GROUP, "w-1", 0, entry, "IDLE", 60_000)
    assert [e.entry_id for e in await claim(connection, "w-2", ["claude"], set(), 0)] == [entry]


async def test_who_is_gone_is_cleared_away(
    connection: QueueConnection, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker's name goes when it holds nothing any more, however it died."""
    monkeypatch.setattr("broker_worker.queue.upkeep.GONE_MS", 0)
    take(admin, "holder")
    admin.xgroup_createconsumer(STREAM, keynames.GROUP, "dead")
    await leave(connection, "", ["claude"])
    assert consumers(admin) == {"holder"}


@pytest.mark.parametrize("stream", [keynames.requests(NOBODY), keynames.REPORTS])
async def test_no_worker_stays_in_the_groups_that_are_no_agents(
    connection: QueueConnection, admin: Any, stream: str
) -> None:
    """Each start of a worker has a name of its own there, and a queue would keep them all for ever."""
    admin.xgroup_create(stream, keynames.GROUP, "0", mkstream=True)
    for name in ("w-1", "w-2"):
        admin.xgroup_createconsumer(stream, keynames.GROUP, name)
    await leave(connection, "w-1", ["claude"])
    assert [each["name"] for each in admin.xinfo_consumers(stream, keynames.GROUP)] == [b"w-2"]


async def test_a_stream_is_replaced_only_when_it_ended_and_is_empty(connection: QueueConnection, admin: Any) -> None:
    """Entries that are not answered yet keep it; an id within a day of the clock is nothing special."""
    assert await mend(connection, ["claude", "nobody"], NOW) == ([], [])
    admin.xadd(STREAM, {b"m": b"x"}, id=f"{NOW + 3600_000}-0")
    assert await mend(connection, ["claude"], NOW) == ([], [])
    admin.xadd(STREAM, {b"m": b"x"}, id=HUGE)
    assert await mend(connection, ["claude"], NOW) == ([], ["claude"])
    assert admin.xlen(STREAM) == 2
    admin.xtrim(STREAM, 0, approximate=False)
    assert await mend(connection, ["claude"], NOW) == (["claude"], [])
    assert admin.xinfo_groups(STREAM)[0]["name"] == keynames.GROUP.encode()
    assert admin.xadd(STREAM, {b"m": b"x"})


async def test_an_ended_stream_that_somebody_else_mended_is_left_alone(connection: QueueConnection, admin: Any) -> None:
    """Two workers look after it: the second one finds nothing to do, and no entry is lost."""
    admin.xadd(STREAM, {b"m": b"x"}, id=HUGE)
    admin.xtrim(STREAM, 0, approximate=False)
    assert await mend(connection, ["claude"], NOW) == (["claude"], [])
    admin.xadd(STREAM, {b"m": b"x"})
    assert await mend(connection, ["claude"], NOW) == ([], [])
    assert admin.xlen(STREAM) == 1


async def test_what_was_left_alone_for_long_is_claimed(connection: QueueConnection, admin: Any) -> None:
    """But neither what is fresh, nor what this worker itself holds."""
    old, mine, fresh = take(admin, "dead", 3)
    for entry in (old, mine):
        admin.execute_command("XCLAIM", STREAM, keynames.GROUP, "dead", 0, entry, "IDLE", 4000)
    found = await claim(connection, "w-1", ["claude"], {("claude", mine)}, 7)
    assert [(entry.entry_id, entry.raw, entry.received_us) for entry in found] == [(old, b"x", 7)]
    assert fresh not in {entry.entry_id for entry in found}


async def test_two_workers_never_claim_the_same_entry(connection: QueueConnection, admin: Any) -> None:
    """The first to claim has it to itself for a while."""
    for entry in take(admin, "dead", 20):
        admin.execute_command("XCLAIM", STREAM, keynames.GROUP, "dead", 0, entry, "IDLE", 4000)
    first = await claim(connection, "w-1", ["claude"], set(), 0)
    second = await claim(connection, "w-2", ["claude"], set(), 0)
    assert (len(first), second) == (20, [])


async def test_holding_keeps_others_away(connection: QueueConnection, admin: Any) -> None:
    """And is no delivery: what is held for long is not given up for it."""
    (entry,) = take(admin, "w-1")
    admin.xclaim(STREAM, keynames.GROUP, "w-1", 0, [entry], idle=4000, justid=True)
    await hold(connection, "w-1", [Entry("claude", entry, b"x", 0)])
    assert await claim(connection, "w-2", ["claude"], set(), 0) == []
    (row,) = admin.xpending_range(STREAM, keynames.GROUP, "-", "+", 1)
    assert (row["consumer"], row["times_delivered"]) == (b"w-1", 1)


async def test_an_entry_that_was_trimmed_meanwhile_is_nothing(connection: QueueConnection, admin: Any) -> None:
    """Its agent may trim its own stream at any time."""
    (entry,) = take(admin, "dead")
    admin.execute_command("XCLAIM", STREAM, keynames.GROUP, "dead", 0, entry, "IDLE", 4000)
    admin.xtrim(STREAM, 0, approximate=False)
    assert await claim(connection, "w-1", ["claude"], set(), 0) == []


@pytest.mark.parametrize("state", ["missing", "no group", "another type"])
async def test_a_stream_that_is_not_there_is_said_to_be_missing(
    connection: QueueConnection, admin: Any, state: str
) -> None:
    """The worker then makes it, or leaves that agent aside."""
    admin.delete(STREAM)
    if state == "no group":
        admin.xadd(STREAM, {b"m": b"x"})
    elif state == "another type":
        admin.set(STREAM, "text")
    with pytest.raises(MissingGroupError):
        await claim(connection, "w-1", ["claude"], set(), 0)
    await leave(connection, "w-1", ["claude"])
    assert await mend(connection, ["claude"], NOW) == ([], [])


async def test_groups_begin_with_what_is_there_already(connection: QueueConnection, admin: Any) -> None:
    """Requests that were written before any worker ran are read."""
    admin.delete(STREAM)
    admin.xadd(STREAM, {b"m": b"early"})
    await connection.call_all(group_commands(["claude"]))
    ((_, entries),) = admin.xreadgroup(keynames.GROUP, "w-1", {STREAM: ">"})
    assert entries[0][1] == {b"m": b"early"}


async def test_errors_keep_their_place_among_replies(connection: QueueConnection) -> None:
    """One refused command does not shift the replies of the others."""
    replies = await connection.call_all([("SET", "a", 1), ("LPUSH", "a", 1), ("GET", "a")])
    assert [replies[0], replies[2]] == [b"OK", b"1"]
    with pytest.raises(QueueError, match="the queue refuses 'LPUSH': WRONGTYPE"):
        await connection.call("LPUSH", "a", 1)


async def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    """With what to do."""
    with pytest.raises(QueueError, match="cannot be reached") as caught:
        await QueueConnection("unix:///nowhere/valkey.sock", "test").open()
    assert "doctor" in caught.value.hint


async def test_a_refused_login_is_a_clear_error(valkey_url: str) -> None:
    """And the password is not in it."""
    url = valkey_url.replace("unix://", "unix://nobody:hunter2@")
    with pytest.raises(QueueError, match="refuses the broker's login") as caught:
        await QueueConnection(url, "test").open()
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


async def test_a_reply_that_never_comes_ends_the_connection(connection: QueueConnection) -> None:
    """Whoever waits learns of it, and the worker connects anew."""
    guard = asyncio.create_task(connection.guard(0.05))
    with pytest.raises(QueueError, match="broke"):
        await connection.call("BLPOP", "nothing", 0)
    await connection.close()
    guard.cancel()


@pytest.mark.parametrize(("deliveries", "fault"), [(MAX_DELIVERIES - 1, None), (MAX_DELIVERIES, "delivered_too_often")])
async def test_an_entry_that_too_many_took_and_did_not_finish_is_given_up(
    connection: QueueConnection, admin: Any, deliveries: int, fault: str | None
) -> None:
    """One request that no worker survives does not end them for ever."""
    (entry,) = take(admin, "w-1")
    admin.execute_command("XCLAIM", STREAM, keynames.GROUP, "w-1", 0, entry, "IDLE", 60_000, "RETRYCOUNT", deliveries)
    (claimed,) = await claim(connection, "w-2", ["claude"], set(), 0)
    assert (claimed.entry_id, claimed.fault) == (entry, fault)


MB = 1_000_000
"""As much as the server takes as one text (`proto-max-bulk-len`)."""


def fill(admin: Any, count: int, size: int) -> None:
    """Write entries to the stream, far larger than any request."""
    with admin.pipeline(transaction=False) as pipe:
        for _ in range(count):
            pipe.xadd(STREAM, {b"m": b"x" * size})
        pipe.execute()


async def test_a_stream_of_a_few_huge_entries_is_cut_too(connection: QueueConnection, admin: Any) -> None:
    """Fewer entries than a batch can fill the server's memory, and then nobody is served."""
    count = STREAM_BYTES // MB + 10
    assert count < BATCH
    fill(admin, count, MB)
    assert await trim_overfull(connection, ["claude", "codex"]) == {"claude": count}
    assert admin.memory_usage(STREAM) < MB


async def test_the_newest_of_many_entries_stay_when_a_stream_is_cut(connection: QueueConnection, admin: Any) -> None:
    """They may still be answered in time."""
    count = STREAM_BYTES // 100_000 + 100
    fill(admin, count, 100_000)
    assert await trim_overfull(connection, ["claude"]) == {"claude": count - BATCH}
    assert admin.xlen(STREAM) == BATCH


async def test_a_stream_that_fits_is_left_alone(connection: QueueConnection, admin: Any) -> None:
    """Nothing that an agent asked is lost."""
    fill(admin, 60, MB)
    assert await trim_overfull(connection, ["claude"]) == {}
    assert admin.xlen(STREAM) == 60
