"""How many files a minute the scanner takes on one core: a source tree is made, and scanned by the real command.

    python tests/benchmarks/scan_bench.py [--files 20000]

Files of 1 to 10 KB, their text cut out of the standard library's sources, one in fifty with a planted key; the files
are in the page cache, as they were just written. Every round is a process of its own, start included.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from scan_maker import Maker

_FOLDER = 50
_PLANTED = 50


def make_tree(folder: Path, files: int) -> int:
    """Write the tree; returns its bytes."""
    drawn, m, size = random.Random(1), Maker(1), 0
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_bytes() for path in sources]
    for number in range(files):
        below = folder / f"{number // _FOLDER // 20}" / f"{number // _FOLDER % 20}"
        below.mkdir(parents=True, exist_ok=True)
        wanted = drawn.randint(1000, 10_000)
        text = b""
        while len(text) < wanted:
            source = drawn.choice(texts)
            at = drawn.randrange(max(1, len(source) - wanted))
            text += source[at : at + wanted - len(text)]
        if number % _PLANTED == 0:
            text += f'\ntoken = "{m.checked("ghp_")}"\n'.encode()
        (below / f"module_{number}.py").write_bytes(text)
        size += len(text)
    return size


def main() -> None:
    """Make the tree, scan it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = make_tree(Path(folder), given.files)
        print(f"{given.files} files, {size / given.files / 1000:.1f} kB each on average")
        for jobs in (1, 2):
            times, used = [], []
            for _ in range(given.rounds):
                before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                command = [
                    sys.executable,
                    "-m",
                    "agent_sdk.cli",
                    "scan",
                    folder,
                    "--jobs",
                    str(jobs),
                    "--format",
                    "json",
                ]
                done = subprocess.run(command, capture_output=True, check=False, text=True)
                times.append(time.perf_counter() - begun)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                summary = json.loads(done.stdout)["summary"]
                assert summary["files"] == given.files, summary
                assert summary["new"] >= given.files // _PLANTED, summary
            middle = statistics.median(times)
            spread = f"median of {given.rounds}, {min(times):.2f} to {max(times):.2f}"
            print(f"--jobs {jobs}: {middle:.2f} s ({spread}), {given.files / middle * 60:,.0f} files a minute")
            cost = statistics.median(used)
            print(f"  {cost:.2f} s of processor time, {given.files / cost * 60:,.0f} files a minute of it")


if __name__ == "__main__":
    main()
