"""Several commands in one write, where an error says what the server said and nothing of what was written."""

from typing import Any

from redis.exceptions import RedisError


async def execute(pipeline: Any) -> None:  # redis-py's types leave open what a reply is
    """Send the commands of a pipeline without a transaction.

    redis-py would begin the text of an error with the command: names and purposes in logs, raw bytes on terminals.

    Args:
        pipeline: the commands.

    Raises:
        RedisError: if the queue is away, or the first one that the server gave for a command.
    """
    for reply in await pipeline.execute(raise_on_error=False):
        if isinstance(reply, RedisError):
            raise reply
