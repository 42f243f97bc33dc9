"""Looking after the request streams: those that nobody can write to any more, and consumers that are gone.

Both are scripts, because between looking and acting an entry could come in and be lost.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from agent_sdk.wire import keynames
from broker_worker.core.errors import QueueError
from broker_worker.core.hot_set import NOBODY
from broker_worker.queue.connection import Command, QueueConnection
from broker_worker.queue.streams import AHEAD_MS

GONE_MS = 60_000
"""A consumer that holds no entry and has not asked for one for this long is gone, ms; workers ask every second."""

_MEND = b"""
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return 0 end
local last, length = 0, 0
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^%d+')) end
  if info[i] == 'length' then length = info[i + 1] end
end
if last <= tonumber(ARGV[2]) then return 0 end
if length > 0 then return 1 end
redis.call('DEL', KEYS[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 2
"""
_CLEAR = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      if tonumber(string.match(info[i + 1], '^%d+')) <= tonumber(ARGV[1]) then return 0 end
    end
  end
end
return redis.call('DEL', KEYS[1])
"""
_LEAVE = b"""
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, found in ipairs(consumers) do
  local consumer = {}
  for i = 1, #found, 2 do consumer[found[i]] = found[i + 1] end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle >= tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
return 1
"""


async def mend(connection: QueueConnection, agents: Collection[str], now: int) -> tuple[list[str], list[str]]:
    """Replace streams whose last id lies so far ahead of the clock that their agents cannot write any more.

    Whoever may XADD may choose the id. A stream is replaced once everything in it is answered.

    Args:
        connection: an open connection that nobody reads from meanwhile.
        agents: whose streams.
        now: the time, ms since the epoch.

    Returns:
        The agents whose streams were replaced, and those whose streams must be looked at again.

    Raises:
        QueueError: if the connection broke or the server refuses.
    """
    latest = now + AHEAD_MS
    answers = await _each(connection, _MEND, [keynames.requests(agent) for agent in agents], latest)
    states = dict(zip(agents, answers, strict=True))
    return [a for a in agents if states[a] == 2], [a for a in agents if states[a] == 1]


async def clear_unusable(client: Any, key: str, now: int) -> bool:
    """Remove what has the name of a stream of ours and is none, or whose last id lies far ahead of the clock.

    Nobody could add to it. What stands there is read by everybody who follows it, so nothing is waited for.

    Args:
        client: a client of the queue.
        key: the stream.
        now: the time, ms since the epoch.

    Returns:
        Whether something was removed.

    Raises:
        RedisError: if the queue is away or refuses.
    """
    return bool(await client.eval(_CLEAR, 1, key, now + AHEAD_MS))


async def leave(connection: QueueConnection, consumer: str, agents: Collection[str]) -> None:
    """Take a consumer out of the groups, unless it still holds entries there, and with it those that are gone.

    Entries of a consumer that is removed would belong to nobody and never be answered.

    Args:
        connection: an open connection that nobody reads from meanwhile.
        consumer: who leaves; the empty text for nobody.
        agents: whose streams. The stream that is read while nobody is active, and that of reports, are left as well.

    Raises:
        QueueError: if the connection broke or the server refuses.
    """
    keys = [*map(keynames.requests, (NOBODY, *agents)), keynames.REPORTS]
    await _each(connection, _LEAVE, keys, consumer, GONE_MS)


async def _each(
    connection: QueueConnection, script: bytes, keys: Iterable[str], *arguments: str | int
) -> Sequence[int]:
    commands: list[Command] = [("EVAL", script, 1, key, keynames.GROUP, *arguments) for key in keys]
    replies = await connection.call_all(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise QueueError(f"the queue refuses to look after a stream: {reply}") from reply
    return replies
