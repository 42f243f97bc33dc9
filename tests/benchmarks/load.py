"""A client that keeps requests in flight and opens nothing: the same one for the null broker and for ours.

    python load.py < job (pickled) > result (JSON)

Sealing is not part of what it does, so that what is measured is the worker: requests were sealed before. One writer
and one reader connection, as in the SDK; a request goes out whenever an answer came in.
"""

import asyncio
import json
import pickle
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop
from redis.asyncio.connection import UnixDomainSocketConnection, parse_url


@dataclass
class Job:
    """What to send: per message its request stream and bytes, in order."""

    url: str
    in_flight: int
    messages: list[tuple[str, bytes]]
    reply_streams: list[str]
    doorbells: list[str]
    burst: list[tuple[str, bytes]] = field(default_factory=list)
    """Messages that are sent all at once, by somebody else, when half of the requests were answered."""


def connection(url: str) -> Any:
    """A raw connection; redis-py's types for it are not complete."""
    options: dict[str, Any] = {**parse_url(url)}
    options.pop("connection_class")
    return UnixDomainSocketConnection(**options, protocol=2, socket_timeout=None)


async def newest(reader: Any, streams: list[str]) -> dict[bytes, bytes]:
    """Where each reply stream ends now."""
    last = {}
    for stream in streams:
        await reader.send_packed_command(reader.pack_command("XREVRANGE", stream, "+", "-", "COUNT", 1))
        entries = await reader.read_response(disable_decoding=True)
        last[stream.encode()] = entries[0][0] if entries else b"0"
    return last


async def run(job: Job) -> dict[str, object]:
    """Send everything, wait for every answer; latencies are true only with one in flight."""
    writer, reader = connection(job.url), connection(job.url)
    await writer.connect()
    await reader.connect()
    last = await newest(reader, job.reply_streams)
    for bell in job.doorbells:
        await writer.send_packed_command(writer.pack_command("PUBLISH", bell, b"1"))
        await writer.read_response()
    await asyncio.sleep(0.05)
    total, sent, answered = len(job.messages), 0, 0
    latencies: list[float] = []
    started = sent_at = time.perf_counter()

    async def send(count: int) -> None:
        nonlocal sent, sent_at
        batch = job.messages[sent : sent + count]
        sent += len(batch)
        sent_at = time.perf_counter()
        await writer.send_packed_command(
            writer.pack_commands([("XADD", stream, "*", "m", message) for stream, message in batch])
        )
        for _ in batch:
            await writer.read_response(disable_decoding=True)

    async def interfere() -> None:
        other = connection(job.url)
        await other.connect()
        await other.send_packed_command(other.pack_commands([("XADD", s, "*", "m", m) for s, m in job.burst]))
        for _ in job.burst:
            await other.read_response(disable_decoding=True)
        await other.disconnect()

    writing = asyncio.create_task(send(job.in_flight))
    interference: asyncio.Task[None] | None = None
    while answered < total:
        read = ("XREAD", "COUNT", 512, "BLOCK", 20_000, "STREAMS", *last, *last.values())
        await reader.send_packed_command(reader.pack_command(*read))
        found = await reader.read_response(disable_decoding=True)
        if not found:
            raise SystemExit(f"only {answered} of {total} requests were answered within 20 s")
        latencies.append(time.perf_counter() - sent_at)
        came = 0
        for key, entries in found:
            came += len(entries)
            last[key] = entries[-1][0]
        answered += came
        if job.burst and interference is None and answered >= total // 2:
            interference = asyncio.create_task(interfere())
        if sent < total:
            await writing
            writing = asyncio.create_task(send(came))
    seconds = time.perf_counter() - started
    await writing
    latencies.sort()
    quantile = {q: latencies[min(int(len(latencies) * q), len(latencies) - 1)] * 1e6 for q in (0.5, 0.99)}
    return {"rps": total / seconds, "p50_us": quantile[0.5], "p99_us": quantile[0.99]}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(pickle.load(sys.stdin.buffer)))))
