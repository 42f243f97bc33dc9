"""How far behind the queue is: asked of the server as the `console` user, which may look but not read requests."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from agent_sdk.wire import keynames
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import load_seed
from broker_worker.queue.acl import CONSOLE
from broker_worker.queue.login import process_url
from broker_worker.settings import Settings

SECONDS: Final = 2.0
"""How long a page waits for the queue."""
MOST_AGENTS: Final = 2000


@dataclass(frozen=True, slots=True)
class AgentQueue:
    """One agent's request stream.

    Args:
        agent_id: whose.
        waiting: requests that no worker has taken; None if the server cannot say.
        taken: requests that a worker took and did not finish yet.
        workers: how many workers ever read it.
        problem: what is wrong with the stream; empty if nothing.
    """

    agent_id: str
    waiting: int | None
    taken: int
    workers: int
    problem: str = ""

    @property
    def behind(self) -> int:
        """How many requests are not answered yet."""
        return (self.waiting or 0) + self.taken


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer group of the audit's stream.

    Args:
        name: which.
        waiting: entries that it has not taken; None if the server cannot say.
        taken: entries that it took and did not finish yet.
    """

    name: str
    waiting: int | None
    taken: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue as it is now.

    Args:
        agents: per agent that has a stream, the longest queue first.
        readers: who reads the audit's stream.
        version: the server's name and version.
        memory: how much memory it uses, in its own words.
        clients: how many connections it has.
        fault: why it cannot be asked; empty if it answered.
    """

    agents: tuple[AgentQueue, ...] = ()
    readers: tuple[Reader, ...] = ()
    version: str = ""
    memory: str = ""
    clients: int = 0
    fault: str = ""

    @property
    def waiting(self) -> int:
        """How many requests no worker has taken, all agents together."""
        return sum(agent.waiting or 0 for agent in self.agents)


async def read_queue(settings: Settings, agents: Iterable[str]) -> QueueState:
    """Ask the queue how it does; never raises: a page shows `fault` instead.

    Args:
        settings: the installation.
        agents: the agents of the policy; at most `MOST_AGENTS` are asked for.
    """
    wanted = sorted(agents)[:MOST_AGENTS]
    try:
        url = process_url(settings.queue_address, settings.keys_dir, CONSOLE, load_seed)
        client = Redis.from_url(url, protocol=2, socket_timeout=SECONDS, retry=Retry(NoBackoff(), 0))
    except (SetupError, ValueError) as error:
        return QueueState(fault=str(error))
    try:
        async with asyncio.timeout(SECONDS), client.pipeline(transaction=False) as pipeline:
            pipeline.info()
            pipeline.xinfo_groups(keynames.AUDIT)
            for agent in wanted:
                pipeline.xinfo_groups(keynames.requests(agent))
            server, audit, *streams = await pipeline.execute(raise_on_error=False)
    except TimeoutError:
        return QueueState(fault=f"the queue gave no answer within {SECONDS:.0f} s")
    except (RedisError, OSError) as error:
        return QueueState(fault=f"the queue cannot be asked: {error}")
    finally:
        await client.aclose()
    return _state(wanted, server, audit, streams)


def _state(agents: Sequence[str], server: Any, audit: Any, streams: Sequence[Any]) -> QueueState:
    queues = [found for agent, groups in zip(agents, streams, strict=True) if (found := _agent_queue(agent, groups))]
    queues.sort(key=lambda queue: (not queue.problem, -queue.behind, queue.agent_id))
    facts = server if isinstance(server, dict) else {}
    name = facts.get("server_name", "redis")
    return QueueState(
        agents=tuple(queues),
        readers=() if isinstance(audit, Exception) else tuple(_reader(group) for group in audit),
        version=f"{name} {facts.get('valkey_version') or facts.get('redis_version', '')}".strip(),
        memory=str(facts.get("used_memory_human", "")),
        clients=int(facts.get("connected_clients", 0)),
    )


def _agent_queue(agent: str, groups: Any) -> AgentQueue | None:
    """What the server says of an agent's stream; None if it never asked for anything."""
    if isinstance(groups, ResponseError):
        is_missing = "no such key" in str(groups).lower()
        return None if is_missing else AgentQueue(agent, None, 0, 0, "the stream is not readable")
    if isinstance(groups, Exception):
        return AgentQueue(agent, None, 0, 0, "the queue did not answer for it")
    for group in groups:
        if group.get("name") == keynames.GROUP.encode():
            return AgentQueue(agent, group.get("lag"), group.get("pending", 0), group.get("consumers", 0))
    return AgentQueue(agent, None, 0, 0, "no worker reads it")


def _reader(group: Any) -> Reader:
    return Reader(group["name"].decode("utf-8", "replace"), group.get("lag"), group.get("pending", 0))
