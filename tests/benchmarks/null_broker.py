"""The floor: a worker that goes the same way over the streams and checks nothing.

    python null_broker.py {pipeline,connection} URL AGENT…

It reads a batch of up to 256 entries from the agents' request streams, writes an answer of the usual size to each
agent's reply stream and acknowledges. `pipeline` is built on redis-py's Pipeline, `connection` on its `Connection`
used directly, with the next read in the same write.
"""

import os
import sys
from typing import Any

import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import UnixDomainSocketConnection, parse_url

GROUP, BATCH, REPLY = "workers", 256, os.urandom(640)


def request_stream(agent: str) -> str:
    """Where the load goes."""
    return f"sb:req:{{{agent}}}"


def reply_stream(agent: str) -> str:
    """Where the answers go: as long a name as a real one."""
    return f"sb:rep:{{{agent}}}:aaaaaaaaaaaaaaaaaaaaaaaaaa"


async def with_pipeline(url: str, agents: list[str]) -> None:
    """Objects for every command, as most code would have it."""
    client: Any = Redis.from_url(url, socket_timeout=None)  # its types leave open what a reply is
    streams = dict.fromkeys((request_stream(agent) for agent in agents), ">")
    replies = {request_stream(agent).encode(): reply_stream(agent) for agent in agents}
    while True:
        found = await client.xreadgroup(GROUP, "null", streams, count=BATCH, block=1000)
        pipeline = client.pipeline(transaction=False)
        for key, entries in found or ():
            for _ in entries:
                pipeline.xadd(replies[key], {"m": REPLY}, maxlen=4096, approximate=True)
            pipeline.xack(key, GROUP, *[entry_id for entry_id, _ in entries])
        if found:
            await pipeline.execute()


async def with_connection(url: str, agents: list[str]) -> None:
    """Packed commands and raw replies."""
    options: dict[str, Any] = {**parse_url(url)}
    options.pop("connection_class")
    connection: Any = UnixDomainSocketConnection(**options, protocol=2, socket_timeout=None)
    await connection.connect()
    keys = [request_stream(agent) for agent in agents]
    replies = {request_stream(agent).encode(): reply_stream(agent) for agent in agents}
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", 1000, "STREAMS", *keys, *[">"] * len(keys))
    await connection.send_packed_command(connection.pack_command(*read))
    while True:
        commands = []
        for key, entries in await connection.read_response(disable_decoding=True) or ():
            reply = replies[key]
            commands += [("XADD", reply, "MAXLEN", "~", 4096, "*", "m", REPLY) for _ in entries]
            commands.append(("XACK", key, GROUP, *[entry_id for entry_id, _ in entries]))
        await connection.send_packed_command(connection.pack_commands([*commands, read]))
        for _ in commands:
            await connection.read_response(disable_decoding=True)


if __name__ == "__main__":
    kind, url, *agents = sys.argv[1:]
    uvloop.run({"pipeline": with_pipeline, "connection": with_connection}[kind](url, agents))
