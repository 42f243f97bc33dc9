"""Users on the queue, asked of a real server: agents reach their own streams and nothing else."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import QueueError
from broker_worker.queue.acl import (
    agent_password,
    agent_rules,
    agent_url,
    agent_user,
    broker_url,
    operator_url,
    render_acl,
)
from broker_worker.queue.embedded import EmbeddedServer, server_binary
from broker_worker.queue.users import apply_acl, ensure_users

QUEUE_KEY = bytes(range(32))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with users for claude and codex."""
    with EmbeddedServer(tmp_path_factory.mktemp("acl") / "run", QUEUE_KEY, ["claude", "codex"]) as server:
        yield server


@pytest.fixture
def claude(server: EmbeddedServer) -> Iterator[Redis]:
    """A connection with claude's rights."""
    with Redis.from_url(agent_url(server.address, QUEUE_KEY, "claude"), protocol=2) as client:
        yield client


@pytest.fixture
def broker(server: EmbeddedServer) -> Iterator[Redis]:
    """A connection with a worker's rights."""
    with Redis.from_url(broker_url(server.address, QUEUE_KEY)) as client:
        yield client


ALLOWED = [
    ("XADD", keynames.requests("claude"), "*", "m", "x"),
    ("PUBLISH", keynames.doorbell("claude"), "1"),
    ("XREAD", "COUNT", "512", "STREAMS", keynames.replies("claude", "abc"), "0"),
    ("XREVRANGE", keynames.replies("claude", "abc"), "+", "-", "COUNT", "1"),
    ("PING",),
    ("CLIENT", "SETNAME", "claude"),
    ("CLIENT", "SETINFO", "LIB-NAME", "x"),
]
FORBIDDEN = [
    ("XADD", keynames.requests("codex"), "*", "m", "x"),
    ("XADD", keynames.replies("claude", "abc"), "*", "m", "x"),
    ("XADD", keynames.AUDIT, "*", "m", "x"),
    ("XREAD", "STREAMS", keynames.replies("codex", "abc"), "0"),
    ("XREAD", "STREAMS", keynames.requests("claude"), "0"),
    ("XREAD", "STREAMS", keynames.AUDIT, "0"),
    ("XREVRANGE", keynames.requests("codex"), "+", "-"),
    ("PUBLISH", keynames.doorbell("codex"), "1"),
    ("SUBSCRIBE", keynames.doorbell("claude")),
    ("DEL", keynames.requests("claude")),
    ("XTRIM", keynames.requests("claude"), "MAXLEN", "0"),
    ("XGROUP", "CREATE", keynames.requests("claude"), "g", "0"),
    ("GET", keynames.agent_limit("claude")),
    ("DEL", keynames.agent_limit("claude")),
    ("SET", "anything", "x"),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("FCALL", "f", "0"),
    ("FUNCTION", "LIST"),
    ("RESTORE", keynames.requests("claude"), "0", "x"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("MONITOR",),
    ("INFO",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("ACL", "WHOAMI"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("FLUSHALL",),
    ("SHUTDOWN", "NOSAVE"),
    ("SELECT", "1"),
    ("MULTI",),
]


def run(client: Redis, command: tuple[str, ...]) -> object:
    """Run a command that redis-py may have no method for."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


def refusal(client: Redis, command: tuple[str, ...]) -> NoPermissionError | None:
    """Why the user may not run a command; other errors, such as a group that exists already, are no refusal."""
    try:
        run(client, command)
    except NoPermissionError as error:
        return error
    except ResponseError:
        return None
    return None


@pytest.mark.parametrize("command", ALLOWED, ids=" ".join)
def test_agent_may(claude: Redis, command: tuple[str, ...]) -> None:
    """What the SDK does is allowed."""
    run(claude, command)


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
def test_agent_may_not(claude: Redis, command: tuple[str, ...]) -> None:
    """Everything else is refused, also on the agent's own keys."""
    assert refusal(claude, command) is not None


def test_default_user_is_off(server: EmbeddedServer) -> None:
    """Nobody gets in without a user."""
    with Redis.from_url(server.address, protocol=2) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_password_of_another_agent_does_not_fit(server: EmbeddedServer) -> None:
    """One agent's password does not open another's user."""
    url = agent_url(server.address, QUEUE_KEY, "codex").replace("agent-codex", "agent-claude")
    with Redis.from_url(url, protocol=2) as client, pytest.raises(AuthenticationError):
        client.ping()


@pytest.mark.parametrize(
    "command",
    [
        ("XGROUP", "CREATE", "sb:req:{claude}", "workers", "$", "MKSTREAM"),
        ("XREADGROUP", "GROUP", "workers", "w1", "COUNT", "256", "STREAMS", "sb:req:{claude}", ">"),
        ("XAUTOCLAIM", "sb:req:{claude}", "workers", "w1", "1000", "0"),
        ("XINFO", "STREAM", "sb:req:{claude}"),
        ("XADD", "sb:rep:{claude}:abc", "MAXLEN", "~", "1000", "*", "m", "x"),
        ("PEXPIRE", "sb:rep:{claude}:abc", "60000"),
        ("SCRIPT", "LOAD", "return 1"),
        ("EVAL", "return redis.call('SET', KEYS[1], '1', 'NX', 'PX', '1000')", "1", "sb:seen:{claude}:ff"),
        ("XADD", "sb:audit", "*", "d", "x"),
        ("XTRIM", "sb:audit", "MAXLEN", "~", "9"),
        ("MEMORY", "USAGE", "sb:audit", "SAMPLES", "0"),
        ("TIME",),
        ("SADD", "rq:queues", "x"),
        ("DEL", "rq:queues"),
    ],
    ids=" ".join,
)
def test_worker_may(broker: Redis, command: tuple[str, ...]) -> None:
    """A worker has the commands that its loop, its limits, its audit and its jobs need."""
    assert refusal(broker, command) is None


@pytest.mark.parametrize(
    "command",
    [
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "x", "on", "nopass", "+@all", "~*"),
        ("CONFIG", "SET", "maxmemory", "0"),
        ("FLUSHALL",),
        ("SHUTDOWN",),
        ("KEYS", "*"),
        ("MONITOR",),
        ("GET", "others"),
    ],
    ids=" ".join,
)
def test_worker_may_not(broker: Redis, command: tuple[str, ...]) -> None:
    """A worker that is taken over cannot change users or settings of the server."""
    assert refusal(broker, command) is not None


async def test_reload_adds_new_agents_and_removes_those_gone(server: EmbeddedServer) -> None:
    """After the policy changed, the new agent gets in and the removed one does not."""
    operator = AsyncRedis.from_url(operator_url(server.address, QUEUE_KEY), protocol=2)
    try:
        await apply_acl(operator, QUEUE_KEY, ["claude", "grok"])
        with Redis.from_url(agent_url(server.address, QUEUE_KEY, "grok")) as grok:
            grok.ping()
        with (
            Redis.from_url(agent_url(server.address, QUEUE_KEY, "codex"), protocol=2) as codex,
            pytest.raises(AuthenticationError),
        ):
            codex.ping()
    finally:
        await apply_acl(operator, QUEUE_KEY, ["claude", "codex"])
        await operator.aclose()


async def test_open_connection_of_an_agent_survives_a_reload(server: EmbeddedServer, claude: Redis) -> None:
    """Setting the users again does not disconnect those who stay."""
    claude.ping()
    before = claude.client_id()
    operator = AsyncRedis.from_url(operator_url(server.address, QUEUE_KEY), protocol=2)
    await apply_acl(operator, QUEUE_KEY, ["claude", "codex"])
    await operator.aclose()
    assert claude.client_id() == before


async def test_server_that_refuses_acl_commands_is_a_clear_error(server: EmbeddedServer) -> None:
    """A managed server without ACL commands ends in an error that says what to do instead."""
    worker = AsyncRedis.from_url(broker_url(server.address, QUEUE_KEY), protocol=2)
    try:
        with pytest.raises(QueueError, match="does not let us set its users") as caught:
            await apply_acl(worker, QUEUE_KEY, ["claude"])
        assert "secret-broker acl" in caught.value.hint
    finally:
        await worker.aclose()


async def test_bare_server_gets_its_users_from_its_own_url(valkey_url: str) -> None:
    """On a server without users, REDIS_URL's own rights are used once to set them."""
    await ensure_users(valkey_url, QUEUE_KEY, ["claude"])
    try:
        with Redis.from_url(agent_url(valkey_url, QUEUE_KEY, "claude")) as client:
            assert client.ping()
    finally:
        with Redis.from_url(valkey_url) as client:
            client.acl_deluser("agent-claude", "broker", "operator")


async def test_server_of_another_installation_is_refused(server: EmbeddedServer) -> None:
    """A server whose users were made with another queue key is not taken over."""
    with pytest.raises(QueueError, match="knows neither"):
        await ensure_users(server.address, bytes(32), ["claude"])


async def test_absent_server_is_a_clear_error(tmp_path: Path) -> None:
    """A server that is not there is named as such."""
    with pytest.raises(QueueError, match="cannot reach the queue"):
        await ensure_users(f"unix://{tmp_path}/none.sock", QUEUE_KEY, [])


def test_acl_file_holds_no_password() -> None:
    """The file that the server reads has SHA-256 of the passwords only."""
    rendered = render_acl(QUEUE_KEY, ["claude"])
    assert agent_password(QUEUE_KEY, "claude") not in rendered
    assert rendered.startswith("user default off ")


def test_acl_file_does_not_depend_on_order() -> None:
    """The same agents give the same file."""
    assert render_acl(QUEUE_KEY, ["b", "a", "b"]) == render_acl(QUEUE_KEY, ["a", "b"])


def test_an_agents_own_user_in_the_url_is_replaced() -> None:
    """REDIS_URL's user and password never reach an agent."""
    url = agent_url("rediss://admin:hunter2@h:6380/0?ssl_cert_reqs=required", QUEUE_KEY, "claude")
    assert "hunter2" not in url
    assert url.startswith("rediss://agent-claude:")
    assert url.endswith("@h:6380/0?ssl_cert_reqs=required")


def test_a_user_that_the_operator_names_is_kept_for_workers() -> None:
    """A REDIS_URL with a user is used by workers as it stands."""
    assert broker_url("redis://me:pw@h", QUEUE_KEY) == "redis://me:pw@h"


@pytest.mark.parametrize("agent", ["*", "a b", "a\nuser x on nopass +@all ~*", "", "Claude", "a}:b", "a*"])
def test_hostile_agent_ids_never_become_rules(agent: str) -> None:
    """An agent id that is not canonical cannot add a rule, a line or a pattern."""
    for make in (agent_user, agent_rules, lambda a: render_acl(QUEUE_KEY, [a])):
        with pytest.raises(WireError):
            make(agent)


@given(first=st.binary(min_size=32, max_size=32), second=st.binary(min_size=32, max_size=32))
def test_passwords_depend_on_the_queue_key(first: bytes, second: bytes) -> None:
    """Two installations share a password only if they share the queue key."""
    assert (agent_password(first, "a") == agent_password(second, "a")) == (first == second)


def test_random_keys_give_url_safe_passwords() -> None:
    """A password needs no quoting in a URL."""
    assert agent_password(os.urandom(32), "a").isalnum()


def test_external_server_runs_with_our_files(tmp_path: Path) -> None:
    """config/valkey.conf and the printed ACL file, places adapted, make a server that lets our users in."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    users = folder / "users.acl"
    users.write_text(render_acl(QUEUE_KEY, ["claude"]))
    places = {"port": "0", "unixsocket": str(folder / "s"), "aclfile": str(users), "dir": str(folder)}
    arguments = [word for name, value in places.items() for word in (f"--{name}", value)]
    example = Path(__file__).parents[2] / "config" / "valkey.conf"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([server_binary(), example, *arguments], stdout=log)
    try:
        with Redis.from_url(operator_url(f"unix://{folder}/s", QUEUE_KEY)) as client:
            wait_until_answered(client)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    finally:
        process.terminate()
        process.wait(45)
        log.close()
        shutil.rmtree(folder)


def wait_until_answered(client: Redis, deadline_seconds: float = 10.0) -> None:
    """Poll until the server answers, or fail at the deadline."""
    end = time.monotonic() + deadline_seconds
    while True:
        try:
            client.ping()
        except RedisConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return
