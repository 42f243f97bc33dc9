"""Putting an operator's orders and news onto the queue, for workers of other hosts: files come first."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import load_seed
from broker_worker.queue.acl import CONSOLE
from broker_worker.queue.login import process_url
from broker_worker.queue.pipelines import execute
from broker_worker.settings import Settings

CONTROL_LENGTH: Final = 10_000
"""How many entries `sb:control` keeps, about: workers read them at once, and files have them as well."""
_QUEUE_SECONDS = 5.0


async def announce(settings: Settings, messages: Sequence[bytes]) -> str:
    """Put messages onto the control stream.

    Args:
        settings: the installation.
        messages: from `core.control`.

    Returns:
        What prevented it; empty if nothing did.
    """
    try:
        url = process_url(settings.queue_address, settings.keys_dir, CONSOLE, load_seed)
        client = Redis.from_url(url, protocol=2, socket_timeout=_QUEUE_SECONDS, retry=Retry(NoBackoff(), 0))
    except (SetupError, ValueError) as error:
        return str(error)
    try:
        async with asyncio.timeout(_QUEUE_SECONDS), client.pipeline(transaction=False) as pipeline:
            for message in messages:
                fields: Any = {keynames.MESSAGE_FIELD: message}
                pipeline.xadd(keynames.CONTROL, fields, maxlen=CONTROL_LENGTH, approximate=True)
            await execute(pipeline)
    except TimeoutError:
        return f"no answer within {_QUEUE_SECONDS:.0f} s"
    except (RedisError, OSError) as error:
        return str(error)
    finally:
        await client.aclose()
    return ""
