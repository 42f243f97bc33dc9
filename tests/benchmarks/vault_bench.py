"""What vaults cost: a cold start, many who want one cold secret, and a vault that hangs beside one that answers.

    python tests/benchmarks/vault_bench.py [--rounds 3]

Prints a table and adds it to .bench/results.json. What the figures mean: docs/performance.md.
"""

import argparse
import asyncio
import json
import pickle
import secrets
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import redis
from installation import Installation, Run
from load import Job

from agent_sdk import AsyncSecretBroker
from agent_sdk.wire.messages import MAX_NAMES, Request, Resolve, encode_request

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / ".bench" / "results.json"
COLD, ASKERS, CACHED, HUNG = 500, 1_000, 2_000, 400
DEADLINE_MS = 15_000


class VaultInstallation(Installation):
    """An installation with a slow vault (`env`, rationed) and a hanging one (`local`)."""

    def _write_files(self, secrets_known: int) -> None:
        super()._write_files(secrets_known)
        config = self.settings.config_dir
        (config / "broker.yaml").write_text(
            "providers:\n  - {type: env, budget: {reads_per_hour: 1000}}\n  - {type: local}\n"
            "cache: {max_ttl_seconds: 3600}\n"
        )
        slow = "".join(f"  slow.key-{n}: {{ref: 'env://SLOW_{n}', ttl_seconds: 3600}}\n" for n in range(secrets_known))
        hung = "".join(f"  hung.key-{n}: 'local://hung-{n}'\n" for n in range(HUNG))
        (config / "secrets.yaml").write_text(f"secrets:\n{slow}{hung}")
        policy = (config / "policy.yaml").read_text()
        wide = "[{pattern: slow.**}, {pattern: hung.**}]"
        (config / "policy.yaml").write_text(policy.replace("[bench.key-0]", wide))

    @property
    def calls_file(self) -> Path:
        """Where the worker writes what its slow vault was asked for."""
        return self.home / "calls"

    def vault_calls(self) -> list[int]:
        """How many references each call of the slow vault had."""
        return [int(line) for line in self.calls_file.read_text().split()] if self.calls_file.exists() else []

    def restart(self) -> None:
        """Start a worker that knows of no trouble and has nothing in its cache."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.settings.vault_states_dir, ignore_errors=True)
        self.calls_file.unlink(missing_ok=True)
        self._start(str(HERE / "vault_worker.py"), str(self.home), str(self.calls_file))

    def sealed_for(self, run: Run, name: str) -> tuple[str, bytes]:
        """A fresh request of a run for one name, and where to send it."""
        now = int(time.time() * 1000)
        request = Request(secrets.token_bytes(16), now, now + DEADLINE_MS, run.credential.token, Resolve((name,)))
        return run.request_stream, run.sealer.seal(encode_request(request), secrets.token_bytes(24))


async def cold_start(bench: VaultInstallation, run: Run) -> dict[str, float]:
    """Ask for 500 secrets that nobody has asked for yet, all at once."""
    names = [f"slow.key-{n}" for n in range(1, COLD)]
    async with AsyncSecretBroker(run.credential) as broker:
        await broker.get("slow.key-0")
        before, started = len(bench.vault_calls()), time.perf_counter()
        found = await asyncio.gather(
            *(broker.get_many(names[start : start + MAX_NAMES]) for start in range(0, len(names), MAX_NAMES))
        )
        seconds = time.perf_counter() - started
    assert sum(len(each) for each in found) == COLD - 1
    calls = bench.vault_calls()[before:]
    return {"cold_500_seconds": seconds, "cold_500_calls": len(calls), "cold_500_most_in_a_call": max(calls)}


async def one_cold_secret(bench: VaultInstallation, run: Run) -> dict[str, float]:
    """A thousand requests for one secret that nobody has asked for yet."""
    async with AsyncSecretBroker(run.credential) as broker:
        await broker.get("slow.key-0")
        before, started = len(bench.vault_calls()), time.perf_counter()
        await asyncio.gather(*(broker.get("slow.key-1") for _ in range(ASKERS)))
        seconds = time.perf_counter() - started
    return {"asked_1000_times_seconds": seconds, "asked_1000_times_calls": len(bench.vault_calls()) - before}


def cached_p99(bench: VaultInstallation, run: Run) -> float:
    """The p99 of a cached secret, one request in flight, in microseconds."""
    messages = [bench.sealed_for(run, "slow.key-0") for _ in range(CACHED)]
    job = Job(bench.url, 1, messages, [run.reply_stream], [run.request_stream.replace("req", "bell")])
    load = [sys.executable, str(HERE / "load.py")]
    done = subprocess.run(load, input=pickle.dumps(job), stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout)["p99_us"])


def beside_a_hanging_vault(bench: VaultInstallation, run: Run, other: Run) -> tuple[float, float]:
    """The p99 of a cached secret, alone, and while 400 requests of another run wait for a vault that hangs."""
    cached_p99(bench, run)
    alone = cached_p99(bench, run)
    client = redis.Redis.from_url(bench.url)
    for number in range(HUNG):
        stream, message = bench.sealed_for(other, f"hung.key-{number}")
        client.xadd(stream, {"m": message})
    client.publish(other.request_stream.replace("req", "bell"), b"1")
    time.sleep(1)  # they are opened and decided, and wait
    return alone, cached_p99(bench, run)


def measure(rounds: int) -> dict[str, float]:
    """Every figure is the median of the rounds; a ratio is that of the rounds' own ratios."""
    bench = VaultInstallation(agents=2, secrets_known=COLD)
    found: dict[str, list[float]] = {}
    try:
        bench.server.start()
        run, other = (bench.new_run(agent) for agent in bench.agents)
        for _ in range(rounds):
            figures: dict[str, float] = {}
            for part in (cold_start, one_cold_secret):
                bench.restart()
                figures |= asyncio.run(part(bench, run))
            alone, beside = beside_a_hanging_vault(bench, run, other)
            figures |= {"cached_p99_us_alone": alone, "cached_p99_us_beside_a_hanging_vault": beside}
            figures["cached_p99_ratio"] = beside / alone
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
    finally:
        bench.close()
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description="Measure what vaults cost.")
    parser.add_argument("--rounds", type=int, default=3)
    figures = measure(parser.parse_args().rounds)
    for name, value in figures.items():
        print(f"{name:40}{value:>10,.2f}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**results, "vaults": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
