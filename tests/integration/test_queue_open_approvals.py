"""How many approvals a run has waiting, on a real server: all workers together count exactly to the limit."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from desk_ports import LocalAdmission
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import NoPermissionError

from agent_sdk.wire import keynames
from broker_worker.core.errors import QueueError
from broker_worker.ports import OpenAsk
from broker_worker.queue import open_approvals as module
from broker_worker.queue.admission import QueueAdmission
from broker_worker.queue.connection import QueueConnection
from broker_worker.queue.open_approvals import close_command, how_many, open_command

KEY = keynames.open_approvals("claude", "run-1")
NOW = 1_800_000_000_000
LIMIT = 3


def ask(
    *wanted: str, known: Mapping[str, int] | None = None, now: int = NOW, key: str = KEY, limit: int = LIMIT
) -> Any:
    return OpenAsk(key, limit, known or {}, wanted, now + 10_000, now)


async def opened(connection: QueueConnection, *asks: OpenAsk) -> list[int]:
    return await QueueAdmission(connection).open_approvals(asks)


async def test_no_more_than_the_limit_are_open_and_each_run_has_its_own(connection: QueueConnection) -> None:
    """The first ones are; one that is open already counts once, however often it is asked for."""
    other = keynames.open_approvals("claude", "run-2")
    assert await opened(connection, ask("a", "b"), ask("c", key=other)) == [2, 1]
    assert await opened(connection, ask("b", "c", "d"), ask("d", "e", "f", key=other)) == [2, 2]
    assert await opened(connection, ask("d"), ask("a", "b", "c")) == [0, 3]


async def test_many_workers_at_once_open_exactly_the_limit(valkey_url: str) -> None:
    """Each on a connection of its own, all within the same moment."""
    connections = [QueueConnection(valkey_url, f"worker-{n}") for n in range(8)]
    for each in connections:
        await each.open()
    asked = [opened(each, ask(f"{number}"), ask(f"{number}b")) for number, each in enumerate(connections)]
    assert sum(sum(counts) for counts in await asyncio.gather(*asked)) == LIMIT
    for each in connections:
        await each.close()


async def test_what_was_decided_makes_room(connection: QueueConnection) -> None:
    """For as many as were closed."""
    await opened(connection, ask("a", "b", "c"))
    await connection.call(*close_command(KEY, "b"))
    assert await opened(connection, ask("d", "e")) == [1]


async def test_what_a_dead_worker_opened_and_showed_nobody_holds_up_its_run_no_longer_than_that(
    connection: QueueConnection,
) -> None:
    """What people can see counts until its own end."""
    await opened(connection, ask("a", "b", "c"))
    await opened(connection, ask(known={"a": NOW + 600_000}))
    assert await opened(connection, ask("d", "e", "f", now=NOW + 9_999)) == [0]
    assert await opened(connection, ask("d", "e", "f", now=NOW + 10_000)) == [2]
    assert await opened(connection, ask("g", now=NOW + 600_000)) == [1]


async def test_the_time_until_which_one_counts_is_only_moved_on(connection: QueueConnection) -> None:
    """A worker that asks for it once more, and has not read that people can see it, does not have it end sooner."""
    end = NOW + 600_000
    await opened(connection, ask(known={"a": end, "b": end, "c": end}))
    assert await opened(connection, ask("a", "b", "c")) == [3]
    assert await opened(connection, ask("d", now=end - 1)) == [0]
    assert await opened(connection, ask("d", now=end)) == [1]


async def test_a_queue_that_forgets_is_told_by_whoever_asks_next(connection: QueueConnection) -> None:
    """What a worker knows to wait counts again."""
    known = {"a": NOW + 600_000, "b": NOW + 600_000}
    await opened(connection, ask("a", "b", "c"))
    await connection.call("DEL", KEY)
    assert await opened(connection, ask("d", "e", known=known)) == [1]
    assert await opened(connection, ask("f")) == [0]


async def test_what_has_the_name_and_is_something_else_counts_as_nothing(connection: QueueConnection) -> None:
    """It is replaced, as if it had been deleted; each worker's own count catches that."""
    await connection.call("SET", KEY, "x")
    assert await opened(connection, ask("a", "b", "c", "d")) == [3]


async def test_nothing_is_left_on_the_queue_of_a_run_that_is_over(connection: QueueConnection) -> None:
    """The key ends a second after the last approval in it."""
    await opened(connection, ask("a"))
    assert 10_000 < await connection.call("PTTL", KEY) <= 11_000
    await opened(connection, ask(known={"a": NOW + 600_000}))
    assert 600_000 < await connection.call("PTTL", KEY) <= 601_000


ASKS = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcdefg"), max_size=4, unique=True),
        st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 40_000), max_size=3),
        st.integers(0, 12_000),
        st.integers(1, 5),
    ),
    max_size=8,
)


@given(asks=ASKS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_script_counts_as_the_tests_own_admission_does(valkey_url: str, asks: Any) -> None:
    """So that what tests of the desk show without a server holds with one."""

    local, now = LocalAdmission(lambda: 0), NOW
    with Redis.from_url(valkey_url) as client:
        client.delete(KEY)
        for wanted, known, later, limit in asks:
            now += later
            one = ask(*wanted, known={key: now + left for key, left in known.items()}, now=now, limit=limit)
            assert client.execute_command(*open_command(one)) == local.open_of(one)


@pytest.mark.parametrize("reply", [b"OK", None, "1", -1, 3, True, [1], 1.0], ids=repr)
def test_an_answer_that_does_not_fit_its_question_opens_nothing(reply: object) -> None:
    """A queue that answers anything else is not believed."""
    with pytest.raises(QueueError, match="does not fit"):
        how_many(ask("a", "b"), reply)


async def test_a_queue_that_refuses_or_breaks_opens_nothing(valkey_url: str, connection: QueueConnection) -> None:
    """Nobody may then be asked."""
    with pytest.raises(QueueError, match="refuses to count"):
        how_many(ask("a"), NoPermissionError("no permissions to run EVAL"))
    with Redis.from_url(valkey_url) as client:
        client.client_kill_filter(_id=str(connection.client_id))
    with pytest.raises(QueueError):
        await opened(connection, ask("a"))


def test_the_script_is_part_of_the_package() -> None:
    """It is found beside the module that sends it."""
    assert Path(module.__file__).with_name("open_approvals.lua").read_bytes() == module._SCRIPT
