"""The SDK end to end: requests sealed, answers opened, through the public API.

python sdk_load.py IN_FLIGHT COUNT < credential (JSON) > result (JSON)
"""

import asyncio
import json
import sys
import time

import uvloop

from agent_sdk import AsyncSecretBroker, RunCredential

NAME = "bench.key-0"


async def run(credential: RunCredential, in_flight: int, count: int) -> dict[str, float]:
    """Keep `in_flight` calls of `get` going until `count` were answered."""
    latencies: list[float] = []
    left = count

    async def caller(broker: AsyncSecretBroker) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            secret = await broker.get(NAME, purpose="benchmark")
            latencies.append(time.perf_counter() - started)
            assert secret.reveal()

    async with AsyncSecretBroker(credential) as broker:
        await broker.get(NAME, purpose="warm up")
        started = time.perf_counter()
        await asyncio.gather(*(caller(broker) for _ in range(in_flight)))
        seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "rps": len(latencies) / seconds,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[int(len(latencies) * 0.99)] * 1e6,
    }


if __name__ == "__main__":
    in_flight, count = int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(uvloop.run(run(RunCredential.from_json(sys.stdin.buffer.read()), in_flight, count))))
