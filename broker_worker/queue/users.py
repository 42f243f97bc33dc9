"""The users of a running server, brought in line with the policy."""

from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from broker_worker.core.errors import QueueError
from broker_worker.queue.acl import AGENT_PREFIX, operator_url, users_of
from broker_worker.queue.pipelines import execute


async def apply_acl(client: Redis, queue_key: bytes, agents: Iterable[str]) -> None:
    """Bring the users of a running server in line with the policy: set those that there are, remove those gone.

    Args:
        client: connected as a user that may run ACL commands.
        queue_key: the 32 bytes of keys/queue.key.
        agents: the agents of the policy.

    Raises:
        QueueError: if the server refuses.
    """
    wanted = users_of(queue_key, agents)
    try:
        present = [_text(user) for user in await client.acl_users()]
        gone = [user for user in present if user.startswith(AGENT_PREFIX) and user not in wanted]
        async with client.pipeline(transaction=False) as pipeline:
            for user, rules in wanted.items():
                pipeline.execute_command("ACL", "SETUSER", user, "reset", "on", *rules)
            if gone:
                pipeline.execute_command("ACL", "DELUSER", *gone)
            await execute(pipeline)
    except RedisError as error:
        raise QueueError(
            f"the queue does not let us set its users: {error}",
            hint="load the output of `secret-broker acl` as the server's ACL file",
        ) from None


async def ensure_users(address: str, queue_key: bytes, agents: Iterable[str]) -> None:
    """Set the users of an external server, as its operator or with the rights that its URL has.

    Args:
        address: the server's URL as the operator gave it.
        queue_key: the 32 bytes of keys/queue.key.
        agents: the agents of the policy.

    Raises:
        QueueError: if the server cannot be reached or neither way has the right.
    """
    for url in (operator_url(address, queue_key), address):
        client = Redis.from_url(url, protocol=2)  # with 3, a refused log-in would look like a lost connection
        try:
            await client.ping()
            await apply_acl(client, queue_key, agents)
        except RedisError as error:
            if _is_refusal(error):
                continue
            raise QueueError(
                f"cannot reach the queue: {error}", hint="is REDIS_URL right, and the server up?"
            ) from None
        else:
            return
        finally:
            await client.aclose()
    raise QueueError(
        "the queue knows neither our operator user nor lets REDIS_URL's user in",
        hint="load the output of `secret-broker acl` as the server's ACL file",
    )


def _is_refusal(error: RedisError) -> bool:
    """Whether the server is there but does not let us in; redis-py wraps that when it happens while connecting."""
    refusals = (AuthenticationError, NoPermissionError)
    return isinstance(error, refusals) or isinstance(error.__cause__, refusals)


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw
