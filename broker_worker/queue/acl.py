"""Who may do what on the queue: a user an agent, one for workers, one for the operator, and `default` switched off.

Passwords are derived from one queue key, so nothing has to be stored a user, and the server only ever sees their
SHA-256. The queue is not trusted with any secret; its users keep agents from each other's streams and from the
commands that would break the service for others.
"""

import hashlib
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from agent_sdk.wire import keynames
from agent_sdk.wire.names import check_agent_id

BROKER = "broker"
OPERATOR = "operator"
CONSOLE = "console"
LEDGER = "ledger"
JOBS = "jobs"
AGENT_PREFIX = "agent-"
_PERSON = b"sb1 queue user"
_NOTHING = ("resetpass", "resetkeys", "resetchannels", "-@all")
_CONNECT = ("+ping", "+hello", "+auth", "+client|setinfo", "+client|setname", "+client|id")

_BROKER_RULES = (
    "~sb:*",
    "~rq:*",
    "&sb:*",
    "&rq:*",
    f"&{keynames.EVERY_DOORBELL}",  # a pattern to subscribe to must itself be on the list
    "+@read",
    "+@write",
    "+@stream",
    "+@pubsub",
    "+@transaction",
    "+@scripting",
    "+@connection",
    "-@dangerous",
    "-@admin",
    "+client|unblock",
    "+info",
    "+time",
    "+script|load",
    "+script|exists",
)
_OPERATOR_RULES = (
    "+acl",
    "+config|get",
    "+info",
    "+time",
    "+save",
    "+bgsave",
    "+dbsize",
    "+lastsave",
    "+shutdown",
    *_CONNECT,
)
_CONSOLE_RULES = (
    f"%R~{keynames.APPROVALS}",
    f"%R~{keynames.AUDIT}",
    f"~{keynames.CONTROL}",
    f"%R~{keynames.requests('*')}",
    "+xread",
    "+xrange",
    "+xrevrange",
    "+xlen",
    "+xadd",
    "+xinfo|stream",
    "+xinfo|groups",
    "+info",
    *_CONNECT,
)
"""People's side: reads what is asked and what happened, writes decisions and revocations, which count by signature."""
_LEDGER_RULES = (
    f"~{keynames.AUDIT}",
    "+xread",
    "+xrange",
    "+xrevrange",
    "+xreadgroup",
    "+xack",
    "+xautoclaim",
    "+xpending",
    "+xgroup|create",
    "+xgroup|delconsumer",
    "+xinfo|stream",
    "+xinfo|groups",
    *_CONNECT,
)
_JOBS_RULES = (
    "~rq:*",
    "&rq:*",
    f"%W~{keynames.REPORTS}",
    "+@read",
    "+@write",
    "+@pubsub",
    "+@transaction",
    "+@scripting",
    "+@connection",
    "-@dangerous",
    "-@admin",
    "+info",
    "+time",
)


def agent_user(agent_id: str) -> str:
    """The queue user of an agent."""
    return AGENT_PREFIX + check_agent_id(agent_id)


def agent_password(queue_key: bytes, agent_id: str) -> str:
    """The password of an agent's queue user, hexadecimal; keyed BLAKE2b (RFC 7693) of its user name."""
    return _password(queue_key, agent_user(agent_id))


def broker_password(queue_key: bytes) -> str:
    """The password of the workers' queue user, hexadecimal."""
    return _password(queue_key, BROKER)


def operator_password(queue_key: bytes) -> str:
    """The password of the user that sets users and looks after the server, hexadecimal."""
    return _password(queue_key, OPERATOR)


def agent_rules(agent_id: str) -> tuple[str, ...]:
    """What an agent may do: write its own requests, ring its own bell, read its own replies.

    Whoever may XADD may also trim or end that one stream, which is why every agent has a stream of its own.
    """
    return (
        f"%W~{keynames.requests(check_agent_id(agent_id))}",
        f"%R~{keynames.replies(agent_id, '*')}",
        f"&{keynames.doorbell(agent_id)}",
        "+xadd",
        "+publish",
        "+xread",
        "+xrevrange",
        *_CONNECT,
    )


def render_acl(queue_key: bytes, agents: Iterable[str]) -> str:
    """The ACL file of a server: every user that there should be, passwords as SHA-256 only.

    Args:
        queue_key: the 32 bytes of keys/queue.key.
        agents: the agents of the policy.
    """
    lines = [f"user default off {' '.join(_NOTHING)}"]
    lines += [f"user {user} on {' '.join(rules)}" for user, rules in users_of(queue_key, agents).items()]
    return "\n".join(lines) + "\n"


def users_of(queue_key: bytes, agents: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every user that there should be, with what it may do; passwords as SHA-256 only.

    Args:
        queue_key: the 32 bytes of keys/queue.key.
        agents: the agents of the policy.
    """
    rules = {
        OPERATOR: _OPERATOR_RULES,
        BROKER: _BROKER_RULES,
        CONSOLE: _CONSOLE_RULES,
        LEDGER: _LEDGER_RULES,
        JOBS: _JOBS_RULES,
    }
    rules |= {agent_user(agent): agent_rules(agent) for agent in sorted(set(agents))}
    return {
        user: (*_NOTHING, "#" + hashlib.sha256(_password(queue_key, user).encode()).hexdigest(), *granted)
        for user, granted in rules.items()
    }


def agent_url(address: str, queue_key: bytes, agent_id: str) -> str:
    """The queue's URL for an agent; a user that `address` names is replaced."""
    return _with_user(address, agent_user(agent_id), agent_password(queue_key, agent_id))


def broker_url(address: str, queue_key: bytes) -> str:
    """The queue's URL for workers: our user, unless `address` names one itself."""
    if "@" in urlsplit(address).netloc:
        return address
    return _with_user(address, BROKER, broker_password(queue_key))


def user_url(address: str, queue_key: bytes, user: str) -> str:
    """The queue's URL for one of our own users: `console`, `ledger` or `jobs`."""
    return _with_user(address, user, _password(queue_key, user))


def user_password(queue_key: bytes, user: str) -> str:
    """The password of one of our own users, hexadecimal: `console`, `ledger` or `jobs`."""
    return _password(queue_key, user)


def url_with_password(address: str, user: str, password: str) -> str:
    """The queue's URL for a user with a password; a user that `address` names is replaced."""
    return _with_user(address, user, password)


def operator_url(address: str, queue_key: bytes) -> str:
    """The queue's URL for the operator's user."""
    return _with_user(address, OPERATOR, operator_password(queue_key))


def _password(queue_key: bytes, user: str) -> str:
    return hashlib.blake2b(user.encode(), digest_size=32, key=queue_key, person=_PERSON).hexdigest()


def _with_user(address: str, user: str, password: str) -> str:
    parts = urlsplit(address)
    # redis-py also takes a user from the query, where it would win over ours and hand the operator's own to an agent.
    query = "&".join(part for part in parts.query.split("&") if not part.startswith(("username=", "password=")))
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}", query=query))
