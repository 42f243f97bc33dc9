"""A program as a child of the MCP server: its output is bounded, and its end is certain."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import until

from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server import child
from agent_sdk.mcp_server.child import Finished, run_child


async def run(code: str, folder: Path, *, seconds: float = 30, stdin: bytes = b"", revoked: Any = None) -> Finished:
    """Run a piece of Python."""
    argv = ["python", "-c", code]
    event = revoked or asyncio.Event()
    return await run_child(sys.executable, argv, {"A": "b"}, folder, stdin, seconds, event)


def lives(pid: int) -> bool:
    """Whether a process is there and no corpse."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_program_that_ignores_the_polite_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it started, which ignores it as well."""
    monkeypatch.setattr(child, "_GRACE_SECONDS", 0.05)
    code = (
        "import os,signal,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); pid=os.fork();\n"
        "if pid: open('pids.new','w').write(f'{os.getpid()} {pid}'); os.rename('pids.new','pids')\n"
        "time.sleep(600)"
    )
    revoked = asyncio.Event()
    running = asyncio.create_task(run(code, tmp_path, revoked=revoked))
    pids = tmp_path / "pids"
    await until(pids.exists)
    revoked.set()
    finished = await running
    assert (finished.ended, finished.exit_code) == ("revoked", -9)
    await until(lambda: not any(lives(int(pid)) for pid in pids.read_text().split()))


async def test_what_a_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    """A child in the background would keep the secret; it also keeps the pipe open, and nobody waits for it."""
    code = "import os,time; pid=os.fork(); print(pid, flush=True) if pid else time.sleep(600)"
    finished = await run(code, tmp_path)
    assert (finished.ended, finished.exit_code) == ("", 0)
    await until(lambda: not lives(int(finished.stdout.data)))


async def test_output_is_kept_up_to_a_bound_and_counted_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that writes without end fills no memory, and is not stuck at a full pipe."""
    monkeypatch.setattr(child, "READ", 1000)
    finished = await run("import sys; sys.stdout.write('x' * 300_000)", tmp_path)
    assert (len(finished.stdout.data), finished.stdout.total, finished.exit_code) == (1000, 300_000, 0)


async def test_a_program_need_not_read_its_input(tmp_path: Path) -> None:
    """One that leaves early is no error of ours."""
    assert (await run("pass", tmp_path, stdin=b"x" * 1_000_000)).exit_code == 0


async def test_it_gets_the_environment_it_is_given(tmp_path: Path) -> None:
    """And nothing else, in the folder that was said."""
    finished = await run("import os; print(os.getcwd(), os.environ['A'], 'HOME' in os.environ)", tmp_path)
    assert finished.stdout.data.decode() == f"{tmp_path} b False\n"


async def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    """By its name, and what the system said."""
    with pytest.raises(InvalidRequest, match="gone cannot be started: No such file or directory"):
        await run_child(str(tmp_path / "gone"), ["gone"], {}, tmp_path, b"", 1, asyncio.Event())
