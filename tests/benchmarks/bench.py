"""Measure the broker beside a null broker, in one run: paired, repeated, medians.

    python tests/benchmarks/bench.py [--rounds 5] [--quick]

Prints a table and writes .bench/results.json. What is measured, and what the figures mean: docs/performance.md.
"""

import argparse
import json
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import redis
from installation import NULL_AGENTS, Installation, Run
from load import Job
from null_broker import GROUP, reply_stream, request_stream

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / ".bench" / "results.json"
COUNTS = {1: 2_000, 64: 20_000, 512: 20_000}
QUICK = {1: 300, 64: 3_000, 512: 3_000}
Figures = dict[str, float]


def run_load(job: Job) -> Figures:
    """Run the load client as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")], input=pickle.dumps(job), stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout))


def null_job(url: str, in_flight: int, count: int, message: bytes) -> Job:
    """The load for a null broker: as many bytes as a real request has."""
    messages = [(request_stream(NULL_AGENTS[n % len(NULL_AGENTS)]), message) for n in range(count)]
    return Job(url, in_flight, messages, [reply_stream(agent) for agent in NULL_AGENTS], [])


def worker_job(bench: Installation, runs: Sequence[Run], in_flight: int, count: int) -> Job:
    """The load for the worker: sealed before the clock starts."""
    messages = [bench.sealed(runs[n % len(runs)]) for n in range(count)]
    bells = sorted({run.request_stream.replace("req", "bell") for run in runs})
    return Job(bench.url, in_flight, messages, [run.reply_stream for run in runs], bells)


def sdk_load(run: Run, in_flight: int, count: int) -> Figures:
    """The SDK as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "sdk_load.py"), str(in_flight), str(count)],
        input=run.credential.to_json().encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout))


def figures_of(measure: dict[int, Figures]) -> Figures:
    """The figures of one subject in one round."""
    return {
        "rps_64": measure[64]["rps"],
        "rps_512": measure[512]["rps"],
        "p50_us_1": measure[1]["p50_us"],
        "p99_us_1": measure[1]["p99_us"],
    }


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    if sys.platform == "linux":
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) / 1024


def wait_until_served(bench: Installation, run: Run) -> None:
    """Wait for the worker by asking it."""
    sdk_load(run, 1, 1)


def measure_main(rounds: int, counts: dict[int, int]) -> dict[str, object]:
    """The four subjects, one after the other in every round, on one server."""
    bench = Installation(agents=4, secrets_known=10)
    try:
        bench.server.start()
        client = redis.Redis.from_url(bench.url)
        for agent in NULL_AGENTS:
            client.xgroup_create(request_stream(agent), GROUP, id="0", mkstream=True)
        runs = [bench.new_run(agent) for agent in bench.agents]
        worker = bench.start_worker()
        wait_until_served(bench, runs[0])
        message = bench.sealed(runs[0])[1]
        per_round: dict[str, list[Figures]] = {"null_pipeline": [], "null_connection": [], "worker": [], "sdk": []}
        for number in range(rounds):
            for kind in ("pipeline", "connection"):
                null = bench.start_null_broker(kind)
                run_load(null_job(bench.url, 16, 500, message))
                measured = {n: run_load(null_job(bench.url, n, count, message)) for n, count in counts.items()}
                per_round[f"null_{kind}"].append(figures_of(measured))
                null.kill()
                null.wait()
                # what the null broker had read and not acknowledged is not the next one's
                for agent in NULL_AGENTS:
                    client.xtrim(request_stream(agent), maxlen=0)
            run_load(worker_job(bench, runs, 16, 500))
            measured = {n: run_load(worker_job(bench, runs, n, count)) for n, count in counts.items()}
            per_round["worker"].append(figures_of(measured))
            measured = {n: sdk_load(runs[0], n, count) for n, count in counts.items()}
            per_round["sdk"].append(figures_of(measured))
            print(f"round {number + 1} of {rounds}: " + _line(per_round, number), file=sys.stderr)
        return {**_medians(per_round), "worker_rss_mib": rss_mib(worker.pid), "ratios": _ratios(per_round)}
    finally:
        bench.close()


def _line(per_round: dict[str, list[Figures]], number: int) -> str:
    return "  ".join(
        f"{name} {figures[number]['rps_64']:,.0f}/s {figures[number]['p50_us_1']:.0f} µs"
        for name, figures in per_round.items()
    )


def _medians(per_round: dict[str, list[Figures]]) -> dict[str, Figures]:
    return {
        name: {key: statistics.median(round_[key] for round_ in figures) for key in figures[0]}
        for name, figures in per_round.items()
    }


def _ratios(per_round: dict[str, list[Figures]]) -> Figures:
    """Each ratio is the median of the ratios of the rounds: what ran within seconds is compared."""

    def ratio(a: str, b: str, key: str) -> float:
        return statistics.median(x[key] / y[key] for x, y in zip(per_round[a], per_round[b], strict=True))

    return {
        "worker_rps_64_to_null_pipeline": ratio("worker", "null_pipeline", "rps_64"),
        "worker_rps_64_to_null_connection": ratio("worker", "null_connection", "rps_64"),
        "worker_p50_1_to_null_pipeline": ratio("worker", "null_pipeline", "p50_us_1"),
        "sdk_rps_64_to_null_pipeline": ratio("sdk", "null_pipeline", "rps_64"),
    }


def measure_size(agents: int, secrets_known: int, active: int, count: int) -> float:
    """Requests a second, 64 in flight, of an installation of some size."""
    bench = Installation(agents, secrets_known)
    try:
        bench.server.start()
        runs = [bench.new_run(agent) for agent in bench.agents[:active]]
        bench.start_worker()
        wait_until_served(bench, runs[0])
        run_load(worker_job(bench, runs, 64, max(1_000, active)))
        return statistics.median(run_load(worker_job(bench, runs, 64, count))["rps"] for _ in range(3))
    finally:
        bench.close()


def measure_scaling(rounds: int, count: int) -> Figures:
    """How much more a request costs in a large installation than in a small one."""
    sizes = {
        "small": (1, 10, 1),
        "agents_500": (500, 10, 1),
        "agents_500_all_active": (500, 10, 500),
        "registry_5000": (1, 5_000, 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in sizes}
    for _ in range(rounds):
        for name, size in sizes.items():
            rates[name].append(measure_size(*size, count))
    small = rates.pop("small")
    return {
        f"cost_{name}": statistics.median(a / b for a, b in zip(small, each, strict=True))
        for name, each in rates.items()
    }


def measure_new_runs(rounds: int, count: int) -> Figures:
    """The p99 of a warm run, alone and while 500 runs that the worker has never seen ask all at once."""
    bench = Installation(agents=4, secrets_known=10)
    try:
        bench.server.start()
        warm = bench.new_run(bench.agents[0])
        bench.start_worker()
        wait_until_served(bench, warm)
        alone, beside = [], []
        run_load(worker_job(bench, [warm], 1, 500))
        for _ in range(rounds):
            alone.append(run_load(worker_job(bench, [warm], 1, count))["p99_us"])
            job = worker_job(bench, [warm], 1, count)
            job.burst = [bench.sealed(bench.new_run(bench.agents[n % 4])) for n in range(500)]
            beside.append(run_load(job)["p99_us"])
        return {
            "p99_us_alone": statistics.median(alone),
            "p99_us_beside_500_new_runs": statistics.median(beside),
            "p99_ratio": statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
        }
    finally:
        bench.close()


def show(results: dict[str, object]) -> None:
    """The table for people."""
    print(f"\n{'':18}{'req/s at 64':>14}{'req/s at 512':>14}{'p50 µs, 1':>12}{'p99 µs, 1':>12}")
    for name in ("null_pipeline", "null_connection", "worker", "sdk"):
        row = results[name]
        assert isinstance(row, dict)
        print(
            f"{name:18}{row['rps_64']:>14,.0f}{row['rps_512']:>14,.0f}{row['p50_us_1']:>12,.0f}{row['p99_us_1']:>12,.0f}"
        )
    print(f"\nworker memory {results['worker_rss_mib']:.0f} MiB")
    for group in ("ratios", "scaling", "new_runs"):
        figures = results.get(group, {})
        assert isinstance(figures, dict)
        for name, value in figures.items():
            print(f"{name:40}{value:>10.2f}")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description="Measure the broker beside a null broker.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few requests, one round: to see that it runs")
    parser.add_argument("--main-only", action="store_true", help="without the sizes and the new runs")
    arguments = parser.parse_args()
    rounds, counts = (1, QUICK) if arguments.quick else (arguments.rounds, COUNTS)
    started = time.time()
    results = measure_main(rounds, counts)
    if not arguments.main_only:
        results["scaling"] = measure_scaling(min(rounds, 3), counts[64] // 4)
        results["new_runs"] = measure_new_runs(rounds, counts[1])
    results["machine"] = {"python": platform.python_version(), "system": platform.platform(), "rounds": rounds}
    results["seconds"] = round(time.time() - started)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    show(results)
    print(f"\nwritten to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
