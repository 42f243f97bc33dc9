"""A command and `run` stop and go on together, once for each time that they are told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from agent_sdk.run.child import DirectChild, Ended, Stopped

STOPS_WITH_A_SIGNAL_BEFORE_IT = """
import os, signal, sys
from agent_sdk.run.signals import Hearing, stop_here
hearing = Hearing()
os.kill(os.getpid(), signal.SIGTSTP)  # the terminal's own, which nobody has taken yet
stop_here()
sys.exit(3)
"""


def state_of(pid: int) -> str:
    """One letter (proc(5), "stat")."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_terminals_signal_does_not_stop_us_a_second_time() -> None:
    """It reaches us as well as the command, and may still wait when the command has stopped; `fg` was undone by it."""
    command = [sys.executable, "-c", STOPS_WITH_A_SIGNAL_BEFORE_IT]
    with subprocess.Popen(command, process_group=0) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            process.kill()
        else:
            process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 3


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see a process go on")
def test_a_command_that_somebody_continues_at_once_can_still_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it stopped is no news any more; waiting for it kept every signal from the command until its end."""
    waitid = os.waitid
    continued: list[int] = []

    def beaten(kind: int, pid: int, options: int) -> Any:
        found = waitid(kind, pid, options)
        if not continued:
            continued.append(pid)
            os.kill(pid, signal.SIGCONT)
            end = time.monotonic() + 45
            while state_of(pid) == "T":
                assert time.monotonic() < end
                time.sleep(0.005)
        return found

    monkeypatch.setattr(os, "waitid", beaten)
    events: SimpleQueue[Ended | Stopped] = SimpleQueue()
    hearing: Any = SimpleNamespace(before=())
    child = DirectChild(["sleep", "60"], {b"PATH": os.environb[b"PATH"]}, (0, 1, 2), hearing, events.put)
    child.send(signal.SIGSTOP)
    end = time.monotonic() + 45
    while not continued:
        assert time.monotonic() < end
        time.sleep(0.005)
    child.send(signal.SIGTERM)
    assert events.get(timeout=45) == Ended(signal.SIGTERM)
