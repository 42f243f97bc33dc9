"""The worker's connection to the queue, on the real server: nothing gets lost, and whoever waits learns of its end."""

import asyncio

import pytest

from broker_worker.core.errors import QueueError
from broker_worker.queue.claims import claim
from broker_worker.queue.connection import QueueConnection

LARGE = bytes(range(256)) * 16 * 1024


async def test_what_the_socket_does_not_take_at_once_follows(connection: QueueConnection) -> None:
    """Megabytes in one write, and others right behind it: each command arrives whole and in order."""
    connection.send([("SET", f"key-{number}", LARGE) for number in range(3)])
    connection.send([("GET", f"key-{number}") for number in range(3)])
    assert await connection.receive_many(6) == [b"OK"] * 3 + [LARGE] * 3


async def test_replies_that_came_early_wait_for_whoever_asks(connection: QueueConnection) -> None:
    """They are handed out in order, as many as are asked for."""
    connection.send([("ECHO", number) for number in range(4)])
    assert await connection.receive_many(3) == [b"0", b"1", b"2"]
    assert await connection.receive() == b"3"


async def test_who_waits_when_the_server_hangs_up_learns_of_it(valkey_url: str, connection: QueueConnection) -> None:
    """And so does everybody who comes later."""
    other = QueueConnection(valkey_url, "other")
    await other.open()
    waiting = asyncio.create_task(connection.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await other.call("CLIENT", "KILL", "ID", connection.client_id)
    with pytest.raises(QueueError, match="the connection to the queue broke"):
        await waiting
    with pytest.raises(QueueError, match="the connection to the queue broke"):
        connection.send([("PING",)])
    with pytest.raises(QueueError, match="the connection to the queue broke"):
        await connection.receive()
    await other.close()


@pytest.mark.parametrize("poll_us", [1, 60_000_000])
async def test_who_looks_for_replies_gets_them_all(connection: QueueConnection, poll_us: int) -> None:
    """Whether they come while it looks, or only when it sleeps already."""
    connection.send([("ECHO", 1), ("BLPOP", "nothing", "0.05"), ("ECHO", 2)])
    assert await connection.receive_many(3, poll_us) == [b"1", None, b"2"]


async def test_who_looks_for_a_reply_when_it_is_closed_learns_of_it(connection: QueueConnection) -> None:
    """Others have their turn while somebody looks, and looking ends with the connection."""
    connection.send([("BLPOP", "nothing", 0)])
    looking = asyncio.create_task(connection.receive(60_000_000))
    await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(QueueError, match="it is closed"):
        await looking


async def test_who_waits_when_it_is_closed_learns_of_it(connection: QueueConnection) -> None:
    """A lane that is given up leaves nobody waiting."""
    waiting = asyncio.create_task(connection.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(QueueError, match="it is closed"):
        await waiting


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"%1\r\n*1\r\n+a\r\n+b\r\n",  # a map with a list as its key, which Python has not
        b"+OK\r\n+OK\r\n",
    ],
    ids=["no protocol", "no value", "not asked for"],
)
async def test_replies_that_are_none_end_it(connection: QueueConnection, answer: bytes) -> None:
    """What does not speak the protocol is not listened to any further, and cannot fill the memory."""
    connection.send([("BLPOP", "nothing", 0)])
    connection.data_received(answer)
    connection.data_received(b"+OK\r\n" * 1000)
    assert len(connection._replies) <= 2
    with pytest.raises(QueueError, match="the connection to the queue broke"):
        connection.send([("PING",)])


@pytest.mark.parametrize(
    "answer",
    [b"-LOADING Valkey is loading the dataset in memory", b"-NOAUTH Authentication required.", b"-ERR max number of"],
)
async def test_every_refusal_is_one_for_who_asks(connection: QueueConnection, answer: bytes) -> None:
    """Also those that redis-py takes for a broken connection, as of a server that was just started again."""
    for asking in (
        connection.call("BLPOP", "nothing", 0),
        claim(connection, "worker-1", ["claude"], (), 0),
    ):
        waiting = asyncio.create_task(asking)
        await asyncio.sleep(0)
        connection.data_received(answer + b"\r\n")
        with pytest.raises(QueueError, match=r"the queue refuses .*(loading|required|max number)"):
            await waiting


async def test_it_is_nothing_before_it_is_open(valkey_url: str) -> None:
    """A clear error, not a defect."""
    with pytest.raises(QueueError, match="it is closed"):
        QueueConnection(valkey_url, "test").send([("PING",)])
