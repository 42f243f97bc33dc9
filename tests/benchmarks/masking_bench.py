"""What masking costs: bytes searched in a second, and a pipe with masking in it beside the same pipe without.

    python tests/benchmarks/masking_bench.py [--rounds 7] [--mib 1024]

Ten values of the usual kinds are masked. The texts are lines of a log, random bytes, and random bytes in base64; none
has a value in it but `log with values`, where every hundredth line has one. The figures of a search are of the
processor time that it takes, so that neighbours on the machine count less; the pipe is on the wall clock.
"""

import argparse
import base64
import fcntl
import os
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent_sdk.masking import Masker, search

CHUNK = 1 << 16
TEXT = 1 << 23
PIPE = 1 << 20
_LETTERS = string.ascii_letters + string.digits


def values(chance: random.Random) -> dict[str, bytes]:
    """Ten values as they are: API keys, passwords, URLs."""

    def letters(count: int) -> str:
        return "".join(chance.choices(_LETTERS, k=count))

    made = [
        f"sk-proj-{letters(40)}", f"ghp_{letters(36)}", f"AKIA{letters(16)}", f"{letters(38)}+/", letters(64),
        f"postgres://app:{letters(12)}@db.internal/app", letters(24), f"xoxb-{letters(40)}", "hunter22!",
        "correct horse battery",
    ]  # fmt: skip
    return {f"key-{number}": value.encode() for number, value in enumerate(made)}


def log_lines(chance: random.Random, size: int, every: int | None, known: list[bytes]) -> bytes:
    """Lines as a web server writes them; every so many of them ends with a value."""
    lines: list[bytes] = []
    length = 0
    while length < size:
        line = (
            f"2026-11-29T20:{chance.randrange(60):02}:{chance.random() * 60:09.6f}Z INFO "
            f"worker[{chance.randrange(9999)}] request={chance.randbytes(8).hex()} "
            f"path=/api/v1/items/{chance.randrange(10**5)} status=200 "
            f'agent="Mozilla/5.0 (X11; Linux x86_64)" took={chance.random() * 100:.3f}ms'
        ).encode()
        if every and len(lines) % every == 0:
            line += b" key=" + chance.choice(known)
        lines.append(line + b"\n")
        length += len(lines[-1])
    return b"".join(lines)[:size]


def gigabytes_a_second(mask: Callable[[bytes], bytes], text: bytes, rounds: int) -> float:
    """The median of several rounds over a text in chunks of a pipe's size."""
    chunks = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    took: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        for chunk in chunks:
            mask(chunk)
        took.append(time.process_time() - start)
    return len(text) / statistics.median(took) / 1e9


def searches(rounds: int) -> None:
    """Print what each search makes of each text."""
    chance = random.Random(2026)  # nothing secret
    known = values(chance)
    texts = {
        "log": log_lines(chance, TEXT, None, []),
        "log with values": log_lines(chance, TEXT, 100, list(known.values())),
        "random bytes": chance.randbytes(TEXT),
        "base64": base64.b64encode(chance.randbytes(TEXT * 3 // 4)),
    }
    engines = [True, False] if search.HYPERSCAN else [False]
    for engine in engines:
        search.HYPERSCAN = engine
        for kind, text in texts.items():
            speed = gigabytes_a_second(Masker(known).feed, text if engine else text[: TEXT // 4], rounds)
            print(f"{'hyperscan' if engine else 'plain':>10}  {kind:<16} {speed:6.2f} GB/s")
        search.HYPERSCAN = engines[0]


def pump(mask: bool) -> None:
    """Copy standard input to standard output as `secret-agent run` does with a program's output."""
    feed = Masker(values(random.Random(2026))).feed if mask else bytes  # nothing secret
    fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, PIPE)
    while chunk := os.read(0, CHUNK):
        os.write(1, feed(chunk))


def processor_time() -> float:
    """Of all the children that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def pipes(rounds: int, mib: int) -> None:
    """Print how long a pipe takes whose end is `cat`, a copy in Python, and the same with masking; by turns."""
    ends = {
        "cat": "cat",
        "copy": f"{sys.executable} {__file__} --pump plain",
        "mask": f"{sys.executable} {__file__} --pump mask",
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        source = Path(folder) / "log"
        block = log_lines(random.Random(1), TEXT, None, [])  # nothing secret
        with source.open("wb") as file:
            for _ in range(mib * (1 << 20) // TEXT):
                file.write(block)
        took: dict[str, list[float]] = {end: [] for end in ends}
        used: dict[str, list[float]] = {end: [] for end in ends}
        for _ in range(rounds):
            for end, command in ends.items():
                start, before = time.perf_counter(), processor_time()
                subprocess.run(f"cat {source} | {command} > /dev/null", shell=True, check=True)
                took[end].append(time.perf_counter() - start)
                used[end].append(processor_time() - before)
    base = statistics.median(took["cat"])
    for end, times in took.items():
        middle = statistics.median(times)
        against = f"{middle / base - 1:+.0%} against cat"
        processor = statistics.median(used[end])
        print(f"{end:>10}  {mib} MiB of log lines in {middle:.3f} s ({against}), {processor:.3f} s of processor time")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--pump", choices=["plain", "mask"])
    arguments = parser.parse_args()
    if arguments.pump:
        pump(arguments.pump == "mask")
    else:
        searches(arguments.rounds)
        pipes(arguments.rounds, arguments.mib)


if __name__ == "__main__":
    main()
