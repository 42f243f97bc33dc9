"""`secret-broker demo`: the whole story on real parts, in a process of its own, with nothing left behind."""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from broker_worker.cli.demo.house import CANARY
from broker_worker.cli.demo.stage import WIDTH
from broker_worker.cli.demo.traces import Search

COMMAND = [sys.executable, "-m", "broker_worker.cli", "demo"]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the demo needs the embedded server"),
    pytest.mark.timeout(600),  # a dozen processes start in it, so its time is that of whoever else uses the machine
]


@dataclass(frozen=True)
class Shown:
    """What a demo that ran to its end left: its outputs, its exit code, files and processes."""

    out: str
    err: str
    code: int
    files: list[str]
    processes: list[str]


def environment(folder: Path) -> dict[str, str]:
    """An environment whose variables of ours all lead astray: the demo must not follow them."""
    misleading = {"SECRET_BROKER_HOME": str(folder / "elsewhere"), "REDIS_URL": "redis://127.0.0.1:1"}
    return {**os.environ, **misleading, "TMPDIR": str(folder), "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One demo, without a terminal, whichever of pytest's processes comes first."""
    together = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    if together is None:
        return _run_once()
    with FileLock(together / "demo.lock"):
        kept = together / "demo.pickle"
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_run_once()))
        again: Shown = pickle.loads(kept.read_bytes())
        return again


def _run_once() -> Shown:
    with tempfile.TemporaryDirectory(prefix="sbt-") as name:  # short: a socket's path has to fit
        return run(Path(name))


def run(folder: Path) -> Shown:
    """Run a demo to its end."""
    done = subprocess.run(
        COMMAND,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    files = [path.name for path in folder.iterdir()]
    return Shown(done.stdout, done.stderr, done.returncode, files, processes_of(folder))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files of a demo that is interrupted."""
    with tempfile.TemporaryDirectory(prefix="sbt-") as name:
        yield Path(name)


def processes_of(folder: Path) -> list[str]:
    """The command lines of running processes that name a folder, which all of a demo's do but the demo's own."""
    if Path("/proc/self/cmdline").exists():
        listed = "\n".join(map(command_line, Path("/proc").glob("[0-9]*")))
    else:
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def command_line(process: Path) -> str:
    """The command line of a process in /proc; empty if it is gone."""
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_every_claim_holds(shown: Shown) -> None:
    """The demo exits with 0, no claim failed, and it says how long it took."""
    assert shown.code == 0, shown.out + shown.err
    summary = re.search(r"^(\d+) claims held, 0 failed, in [0-9.]+ s\.$", shown.out, re.MULTILINE)
    assert summary is not None
    assert int(summary[1]) == len(re.findall(r"^   ok      ", shown.out, re.MULTILINE)) >= 48


@pytest.mark.parametrize(
    "line",
    [
        r"   claude         openai\.api_key       granted         (vault|cache) +[0-9.]+ m?s   \"embed the docum.*\"",
        r"   claude         github\.read_token    denied +[0-9.]+ m?s   \".*\"",
        r"   claude         payroll\.master_key   denied .*",
        r"   random-script  anthropic\.api_key    denied .*",
        r"   ok      13 requests, 6 granted: exactly what the policy allows, nothing to random-script",
        r"   codex          500 requests         \d+ granted +\d+ rate-limited: ask again in .*",
        r"   ok      claude and grok: all 80 requests granted, \d+ of them asked while the flood was on",
        r"   worker-1 +killed          holding \d+ requests? of (claude|grok).*",
        r"   codex          made\.webhook_key     stored .*",
        r"   ok      codex stored a value that nobody else has seen; a name is created once",
        r"   ok      version 2 was drafted, probed, promoted: a command of the operator's tried it first",
        r"   ok      claude was told, and what it holds works on: its lease runs to its end",
        r"   ok      nothing is lost: 80 requests, 80 granted",
        r"   ok      claude's request, once more +recorded: invalid, reason replay",
        r"   ok      the same on grok's stream +recorded: unauthenticated, reason cannot_open",
        r"   ok      random bytes on codex's stream +recorded: unauthenticated, reason malformed",
        r"   ok      a token that they signed themselves +recorded: unauthenticated, reason bad_token",
        r"   \+      - secret: prod\.deploy_key",
        r"   codex          prod\.deploy_key      waits           for a person .*",
        r"   ok      nobody else has to wait: claude is served meanwhile",
        r"   ok      alice's approval, with a key of their own +recorded: bad_signature",
        r"     why       deploy release 1\.4",
        r"     http://localhost:\d+/login\?token=.*",
        r"   codex          prod\.deploy_key      granted         vault .*",
        r"   ok      released once, as the audit says: approval [0-9a-f]{16} by alice",
        r"   ok      the same once more is a new question: [0-9a-f]{16}; codex is told at.*",
        r"   ok      the true approval, by alice, copied onto it +recorded: bad_signature",
        r"   ok      6 values are lent: what agents were granted, and nothing else",
        r"   ok      claude used it all the time; after [0-9.]+ s its Secret raised LeaseExpired",
        r"   ok      [0-9.]+ m?s after the order grok's copy was gone: its Secret raised LeaseRevoked.*",
        r"   grok           openai\.api_key       revoked .*",
        r"   ok      had that value leaked: 3 runs held it, 2 of them hold it now",
        r"   ok      the story of the run ends with its revocation, and with what was refused since",
        r"   /approvals     [0-9,]+ bytes +200 .*",
        r"   ok      it shows that codex waits for prod\.deploy_key, and that grok's run was revoked",
        r"   ok      verified: \d+ lines of 3 writers, .*",
        r"   ok      the changed line is found, and where it is",
        r"   ok      the queue's log and files +0 occurrences in +[0-9,]+ bytes",
        r"   ok      the ledger's database +0 occurrences in +[0-9,]+ bytes",
        r"   ok      the dashboard's pages +0 occurrences in +[0-9,]+ bytes",
        r"   ok      the same search finds a marker of ours in the queue's log, in all three forms",
        r"   secret-broker init +.*",
    ],
)
def test_story_is_told(shown: Shown, line: str) -> None:
    """Each act shows who asked for what and what came of it, and states what was checked."""
    assert re.search(f"^{line}$", shown.out, re.MULTILINE), shown.out


def test_no_value_is_shown(shown: Shown) -> None:
    """What every value of the demo contains is nowhere in its output, in no form."""
    search = Search([CANARY.encode()])
    search.look((shown.out + shown.err).encode())
    assert not search.found


def test_output_fits_and_is_clean(shown: Shown) -> None:
    """Without a terminal there are no colours, no line is longer than 100 columns, and nothing is on stderr."""
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= WIDTH
    assert shown.err == ""


def test_nothing_is_left_behind(shown: Shown) -> None:
    """After it, its home is removed and its server, workers and agents are gone."""
    assert (shown.files, shown.processes) == ([], [])


def test_interrupted_demo_leaves_nothing(folder: Path) -> None:
    """Ctrl-C in the middle ends every process, removes the home and exits with 130."""
    code, errors = end_in_the_middle(folder, signal.SIGINT)
    assert (code, errors) == (130, "interrupted\n")
    assert await_end_of_processes(folder) == []
    assert list(folder.iterdir()) == []


def test_killed_demo_leaves_no_process(folder: Path) -> None:
    """Even if the demo itself is killed, its server, workers and agents end; only its folder stays."""
    code, _ = end_in_the_middle(folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert await_end_of_processes(folder) == []


def end_in_the_middle(folder: Path, number: int) -> tuple[int, str]:
    """Send a signal to a demo while its first act is on; returns its exit code and its errors."""
    with subprocess.Popen(
        COMMAND, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        try:
            while "Everybody asks" not in (line := demo.stdout.readline()):
                assert line, demo.stderr.read()
            assert processes_of(folder)
            demo.send_signal(number)
            _, errors = demo.communicate(timeout=150)
        finally:
            demo.kill()
    return demo.returncode, errors


def await_end_of_processes(folder: Path) -> list[str]:
    """Wait until no process names the folder, for at most 90 seconds; returns those that are left."""
    end = time.monotonic() + 90
    while (left := processes_of(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return left
