"""Checks of the queue's server: reachable, users, persistence, eviction, clock."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from agent_sdk.wire import keynames
from broker_worker.app.compose import SKEW_MS
from broker_worker.cli.doctor.check import Check, failed, guarded, ok, warn
from broker_worker.queue.acl import CONSOLE, JOBS, LEDGER, agent_user, broker_url, operator_url
from broker_worker.settings import Settings

Verdict = Callable[[str, str, str], Check]
_Words = tuple[str, ...]
_OLDEST = (7, 0)
_FULL = 0.8
_SKEW_WARN_MS = 1000
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LOAD_ACL = "load the output of `secret-broker acl` as its ACL file, or run `secret-broker acl --apply`"
_START = "start it with `secret-broker up`"
_STRANGER = "sb-doctor-stranger"
_FORGE = ("XADD", keynames.AUDIT, "*", "m", "x")
_ASK = ("XADD", keynames.requests(_STRANGER), "*", "m", "x")
_ADMIN: tuple[_Words, ...] = (("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*"), ("MONITOR",), ("FLUSHALL",))
OWN_USERS: dict[str, tuple[tuple[_Words, ...], tuple[_Words, ...]]] = {
    CONSOLE: (
        (
            ("XADD", keynames.CONTROL, "*", "m", "x"),
            ("XREAD", "STREAMS", keynames.APPROVALS, "0"),
            ("XREAD", "STREAMS", keynames.AUDIT, "0"),
        ),
        (_FORGE, _ASK, ("XADD", keynames.APPROVALS, "*", "m", "x"), ("DEL", keynames.CONTROL), *_ADMIN),
    ),
    LEDGER: (
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", keynames.AUDIT, ">"), ("XACK", keynames.AUDIT, "g", "0-1")),
        (_FORGE, _ASK, ("XADD", keynames.CONTROL, "*", "m", "x"), ("XTRIM", keynames.AUDIT, "MAXLEN", "0"), *_ADMIN),
    ),
    JOBS: (
        (("LPUSH", "rq:queue:x", "x"), ("XADD", keynames.REPORTS, "*", "m", "x")),
        (_FORGE, _ASK, ("XADD", keynames.CONTROL, "*", "m", "x"), ("XREAD", "STREAMS", keynames.AUDIT, "0"), *_ADMIN),
    ),
}
"""The users that are no agents: what each must be able to do, and what it must not."""


def check_queue(
    settings: Settings, queue_key: bytes, agents: Iterable[str], *, running: bool = False
) -> Iterator[Check]:
    """Everything about the server and whether workers listen to it; if it is not there, only that.

    Args:
        settings: which server.
        queue_key: the 32 bytes of keys/queue.key.
        agents: the agents of the policy.
        running: whether the broker is meant to run, so that it is a failure if it does not.
    """
    absent = failed if running else warn
    client, found = _connect(settings, queue_key, absent)
    yield found
    if client is None:
        return
    with client:
        yield from guarded("queue transport", lambda: _check_transport(settings))
        yield from guarded(
            "queue workers", lambda: _check_workers(broker_url(settings.queue_address, queue_key), absent)
        )
        for name, check in (
            ("queue version", lambda: _check_version(client)),
            ("queue clock", lambda: _check_clock(client)),
            ("queue users", lambda: _check_users(client, sorted(agents))),
            ("queue persistence", lambda: _check_persistence(client)),
            ("queue memory", lambda: _check_memory(client)),
        ):
            yield from guarded(name, lambda name=name, check=check: _if_permitted(name, check()))  # type: ignore[misc]  # mypy cannot infer a lambda's default arguments


def _connect(settings: Settings, queue_key: bytes, absent: Verdict) -> tuple["Redis | None", Check]:
    """The first way in that the server grants: our operator's user, the workers', the URL's own."""
    address = settings.queue_address
    if settings.redis_url is None and not settings.socket_path.exists():
        return None, absent("queue", "the embedded server is not running", _START)
    where = "REDIS_URL" if settings.redis_url else str(settings.socket_path)
    ways = (
        (operator_url(address, queue_key), "as operator"),
        (broker_url(address, queue_key), "as worker"),
        (address, "with the user of the URL"),
    )
    refused = "it was not tried"
    for url, how in ways:
        client = _client(url)
        try:
            client.ping()
        except AuthenticationError as error:
            refused = str(error)
            client.close()
        except RedisError as error:
            client.close()
            return None, _unreachable(settings, where, error, absent)
        else:
            return client, ok("queue", f"{where} answers ({how})")
    return None, failed("queue", f"{where} lets none of our users in: {refused}", _LOAD_ACL)


def _unreachable(settings: Settings, where: str, error: RedisError, absent: Verdict) -> Check:
    if settings.redis_url:
        return failed("queue", f"{where} does not answer: {error}", "is it running, and REDIS_URL right?")
    if isinstance(error, RedisConnectionError):
        return absent("queue", "the embedded server is not running; it left its socket behind", _START)
    return failed("queue", f"the embedded server does not answer: {error}", f"see {settings.run_dir / 'valkey.log'}")


def _client(url: str) -> "Redis":
    # With protocol 3 a refused log-in looks like a lost connection.
    return Redis.from_url(url, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _if_permitted(name: str, check: Iterator[Check]) -> Iterator[Check]:
    try:
        yield from check
    except NoPermissionError:
        yield warn(name, "cannot be checked: the server lets this user not ask", _LOAD_ACL)


def _check_transport(settings: Settings) -> Iterator[Check]:
    parts = urlsplit(settings.queue_address)
    if parts.scheme == "unix":
        yield ok("queue transport", "a unix socket")
    elif parts.scheme == "rediss":
        yield ok("queue transport", "TLS")
    elif (parts.hostname or "localhost") in _LOOPBACK:
        yield ok("queue transport", "TCP on this host")
    else:
        detail = f"plain TCP to {parts.hostname}: requests are sealed, but the users' passwords are not"
        yield warn("queue transport", detail, "use rediss://")


def _check_workers(url: str, absent: Verdict) -> Iterator[Check]:
    """Whether the workers' user gets in, and whether a worker listens to the doorbells."""
    with _client(url) as client:
        try:
            client.xlen(keynames.AUDIT)
        except (AuthenticationError, NoPermissionError) as error:
            yield failed("queue workers", f"the workers' user is not let in: {error}", _LOAD_ACL)
            return
        if client.pubsub_numpat():
            yield ok("queue workers", "their user gets in, and a worker listens")
        else:
            yield absent("queue workers", "their user gets in, but no worker listens", _START)


def _check_version(client: "Redis") -> Iterator[Check]:
    info = _info(client, "server")
    redis = str(info.get("redis_version", "0"))
    shown = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {redis}"
    if tuple(int(part) for part in redis.split(".")[:2]) < _OLDEST:
        yield failed(
            "queue version", f"{shown} has no read-only key patterns for users", "use Valkey or Redis 7 or newer"
        )
    else:
        yield ok("queue version", shown)


def _check_clock(client: "Redis") -> Iterator[Check]:
    before = time.time_ns() // 1_000_000
    seconds, microseconds = client.time()
    after = time.time_ns() // 1_000_000
    skew = abs(seconds * 1000 + microseconds // 1000 - (before + after) // 2)
    if skew > SKEW_MS:
        yield failed(
            "queue clock",
            f"{skew / 1000:.1f} s off; {SKEW_MS // 1000} s are allowed",
            "run an NTP client on both hosts",
        )
    elif skew > _SKEW_WARN_MS + (after - before):
        yield warn("queue clock", f"{skew / 1000:.1f} s off", "run an NTP client on both hosts")
    else:
        yield ok("queue clock", f"within {max(skew, after - before)} ms of ours")


def _check_users(client: "Redis", agents: Sequence[str]) -> Iterator[Check]:
    users = [_text(user) for user in client.acl_users()]
    default = cast("dict[str, Any] | None", client.acl_getuser("default"))
    if default is not None and "on" in [_text(flag) for flag in default["flags"]]:
        hint = "set `user default off` in its ACL file, as the output of `secret-broker acl` does"
        yield failed("queue default user", "anybody who reaches the server gets in as `default`", hint)
    else:
        yield ok("queue default user", "off")
    missing = [user for user in (*OWN_USERS, *map(agent_user, agents)) if user not in users]
    extra = [user for user in users if user.startswith("agent-") and user not in map(agent_user, agents)]
    if missing:
        yield failed("queue users", f"no user for {', '.join(missing[:3])}", _LOAD_ACL)
        return
    wide = [agent_user(agent) for agent in agents if not _is_confined(client, agent)]
    wide += [user for user, (may, may_not) in OWN_USERS.items() if not _runs_exactly(client, user, may, may_not)]
    if wide:
        yield failed("queue users", f"the rights of {wide[0]} are not the expected ones", _LOAD_ACL)
    elif extra:
        yield warn("queue users", f"{extra[0]} is no agent of the policy (any more)", _LOAD_ACL)
    else:
        yield ok("queue users", f"{len(agents)} agents reach their own streams and nothing else")


def _is_confined(client: "Redis", agent: str) -> bool:
    """Whether the server, asked, would let the agent do what it must and refuse what it must not."""
    user, own = agent_user(agent), keynames.requests(agent)
    may = (
        ("XADD", own, "*", "m", "x"),
        ("XREAD", "STREAMS", keynames.replies(agent, "x"), "0"),
        ("PUBLISH", keynames.doorbell(agent), "1"),
    )
    may_not = (
        ("XADD", keynames.requests(_STRANGER), "*", "m", "x"),
        ("XREAD", "STREAMS", keynames.replies(_STRANGER, "x"), "0"),
        ("XADD", keynames.replies(agent, "x"), "*", "m", "x"),
        ("XREAD", "STREAMS", keynames.AUDIT, "0"),
        ("GET", keynames.agent_limit(agent)),
        ("EVAL", "return 1", "0"),
        ("RESTORE", own, "0", "x"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("KEYS", "*"),
        ("MONITOR",),
        ("FLUSHALL",),
    )
    return _runs_exactly(client, user, may, may_not)


def _runs_exactly(client: "Redis", user: str, may: Iterable[_Words], may_not: Iterable[_Words]) -> bool:
    return all(_would_run(client, user, command) for command in may) and not any(
        _would_run(client, user, command) for command in may_not
    )


def _would_run(client: "Redis", user: str, command: _Words) -> bool:
    return _text(client.acl_dryrun(user, *command)) == "OK"


def _check_persistence(client: "Redis") -> Iterator[Check]:
    settings = _config(client, "append*")
    state = _info(client, "persistence")
    if settings.get("appendonly") != "yes":
        hint = "set `appendonly yes`; workers keep a second line of defence for as long as they run"
        yield warn("queue persistence", "a restart forgets waiting requests, replay marks and limits", hint)
    elif state.get("aof_last_write_status") != "ok" or state.get("aof_last_bgrewrite_status") != "ok":
        yield failed(
            "queue persistence", "the last write of its append-only file failed", "check the server's disk and log"
        )
    elif settings.get("appendfsync") == "no":
        yield warn("queue persistence", "appendfsync is `no`: a crash loses what was not written", "set it to everysec")
    else:
        yield ok("queue persistence", f"append-only file, synced {settings.get('appendfsync')}")


def _check_memory(client: "Redis") -> Iterator[Check]:
    policy = _config(client, "maxmemory-policy").get("maxmemory-policy")
    memory = _info(client, "memory")
    limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
    shown = f"{used // 1024**2} of {limit // 1024**2} MiB used" if limit else f"{used // 1024**2} MiB used, no limit"
    if policy != "noeviction":
        detail = f"maxmemory-policy is {policy}: when memory is short the server forgets requests, marks and limits"
        yield failed("queue memory", detail, "set maxmemory-policy to noeviction")
    elif limit and used > _FULL * limit:
        yield warn(
            "queue memory", f"{shown}; a full server refuses every request", "raise maxmemory, or see who floods it"
        )
    elif not limit:
        yield warn("queue memory", shown, "set maxmemory, so that a flood cannot take the whole host")
    else:
        yield ok("queue memory", f"{shown}, nothing is evicted")


def _info(client: "Redis", section: str) -> dict[str, Any]:
    return client.info(section)


def _config(client: "Redis", pattern: str) -> dict[str, str]:
    return cast("dict[str, str]", client.config_get(pattern))


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw
