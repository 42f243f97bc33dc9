"""The users that are neither agents nor workers, asked of a real server: console, ledger and jobs."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from agent_sdk.wire import keynames
from broker_worker.queue.acl import CONSOLE, JOBS, LEDGER, broker_url, user_url
from broker_worker.queue.embedded import EmbeddedServer

QUEUE_KEY = bytes(range(32))
REQUESTS = keynames.requests("claude")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with one agent, and something on every stream."""
    with EmbeddedServer(tmp_path_factory.mktemp("acl") / "run", QUEUE_KEY, ["claude"]) as server:
        with Redis.from_url(broker_url(server.address, QUEUE_KEY)) as broker:
            for stream in (keynames.AUDIT, keynames.APPROVALS, keynames.CONTROL, keynames.REPORTS, REQUESTS):
                broker.xadd(stream, {"m": "x"})
            broker.xgroup_create(keynames.AUDIT, "ledger", "0")
            broker.xgroup_create(REQUESTS, keynames.GROUP, "0")
        yield server


@pytest.fixture(scope="module")
def users(server: EmbeddedServer) -> Iterator[dict[str, Redis]]:
    """A connection for each of the users."""
    clients = {user: Redis.from_url(user_url(server.address, QUEUE_KEY, user)) for user in (CONSOLE, LEDGER, JOBS)}
    yield clients
    for client in clients.values():
        client.close()


def is_refused(client: Redis, command: str) -> bool:
    """Whether the user may not run a command; other errors, such as a group that exists already, are no refusal."""
    try:
        client.execute_command(*command.split())  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except NoPermissionError:
        return True
    except ResponseError:
        return False
    return False


MAY = {
    CONSOLE: [
        "XADD sb:control MAXLEN ~ 10000 * m x",
        "XREAD STREAMS sb:approvals sb:audit sb:control 0 0 0",
        "XRANGE sb:audit - + COUNT 5",
        "XREVRANGE sb:approvals + - COUNT 5",
        "XLEN sb:audit",
        f"XINFO STREAM {REQUESTS}",
        f"XINFO GROUPS {REQUESTS}",
        f"XLEN {REQUESTS}",
        "INFO memory",
        "PING",
        "CLIENT SETNAME dashboard",
    ],
    LEDGER: [
        "XGROUP CREATE sb:audit consumers 0",
        "XREADGROUP GROUP ledger one COUNT 10 STREAMS sb:audit >",
        "XACK sb:audit ledger 0-1",
        "XAUTOCLAIM sb:audit ledger one 1000 0",
        "XPENDING sb:audit ledger",
        "XRANGE sb:audit - +",
        "XINFO GROUPS sb:audit",
        "PING",
    ],
    JOBS: [
        "SADD rq:queues x",
        "LPUSH rq:queue:x x",
        "HSET rq:job:x a b",
        "BLMOVE rq:queue:x rq:wip:x LEFT RIGHT 0.01",
        "ZADD rq:failed:x 1 x",
        "PUBLISH rq:pubsub:x x",
        "EVAL return(1) 0",
        "MULTI",
        "DISCARD",
        "XADD sb:reports * m x",
        "INFO server",
    ],
}
EVERYBODYS_NOT = [
    f"XADD {REQUESTS} * m x",
    "XADD sb:rep:{claude}:x * m x",
    "XADD sb:approvals * m x",
    "XADD sb:audit * m x",
    "XREADGROUP GROUP workers w STREAMS " + REQUESTS + " >",
    "XGROUP DESTROY sb:audit ledger",
    "XTRIM sb:audit MAXLEN 0",
    "DEL sb:audit",
    "DEL sb:control",
    "DEL sb:seen:{claude}:1",
    "GET sb:lim:{claude}:agent",
    "ZREM sb:open:{claude}:run-1 0123456789abcdef",
    "HGET sb:used:{claude}:0123456789abcdef request",
    "KEYS *",
    "MONITOR",
    "FLUSHALL",
    "CONFIG GET *",
    "ACL LIST",
    "SHUTDOWN NOSAVE",
    "SUBSCRIBE sb:bell:{claude}",
]
MAY_NOT = {
    CONSOLE: [
        *EVERYBODYS_NOT,
        f"XRANGE {keynames.REPORTS} - +",
        "XRANGE sb:rep:{claude}:x - +",
        "EVAL return(1) 0",
        "SADD rq:queues x",
        "XGROUP CREATE sb:audit other 0",
    ],
    LEDGER: [
        *EVERYBODYS_NOT,
        "XADD sb:control * m x",
        "XRANGE sb:control - +",
        "XRANGE sb:approvals - +",
        f"XLEN {REQUESTS}",
        "EVAL return(1) 0",
        "SADD rq:queues x",
    ],
    JOBS: [
        *EVERYBODYS_NOT,
        "XADD sb:control * m x",
        "XRANGE sb:audit - +",
        "XRANGE sb:approvals - +",
        "XRANGE sb:reports - +",
        f"XLEN {REQUESTS}",
        "EVAL return(redis.call('GET',KEYS[1])) 1 sb:audit",
    ],
}


@pytest.mark.parametrize(("user", "command"), [(user, each) for user, commands in MAY.items() for each in commands])
def test_user_may(users: dict[str, Redis], user: str, command: str) -> None:
    """What the user's program does is allowed."""
    assert not is_refused(users[user], command)


@pytest.mark.parametrize(("user", "command"), [(user, each) for user, commands in MAY_NOT.items() for each in commands])
def test_user_may_not(users: dict[str, Redis], user: str, command: str) -> None:
    """A dashboard, a ledger or a job process that is taken over reaches no agent, no vault and no other's stream."""
    assert is_refused(users[user], command)


@pytest.mark.parametrize("user", [CONSOLE, LEDGER, JOBS])
def test_passwords_of_users_differ(server: EmbeddedServer, user: str) -> None:
    """One user's password opens no other user."""
    for other in {CONSOLE, LEDGER, JOBS} - {user}:
        url = user_url(server.address, QUEUE_KEY, user).replace(f"//{user}:", f"//{other}:")
        with Redis.from_url(url, protocol=2) as client, pytest.raises(AuthenticationError):
            client.ping()


def test_user_of_the_url_is_replaced() -> None:
    """REDIS_URL's own user reaches no dashboard, ledger or job process."""
    url = user_url("rediss://admin:hunter2@h:6380/0?username=admin&password=hunter2", QUEUE_KEY, CONSOLE)
    assert "hunter2" not in url
    assert url.startswith("rediss://console:")
