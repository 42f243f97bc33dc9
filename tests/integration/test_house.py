"""The processes that `up` keeps: started again, started late, and ended in their order."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from broker_home import ENV_FILES, Home, Processes
from desk_workbench import until

from broker_worker.app import house as house_module
from broker_worker.app.house import House, Part
from broker_worker.cli import main
from broker_worker.cli import up as up_module
from broker_worker.queue.acl import JOBS, user_url

PART = """
import os, signal, sys, time
folder, name, what = sys.argv[1:4]
def note(word):
    with open(folder + "/log", "a") as file:
        file.write(f"{name} {word} {os.environ.get('GIVEN', '-')}\\n")
def stop(*_):
    note("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop if what != "stubborn" else signal.SIG_IGN)
note("starts")
if what == "fails":
    sys.exit(3)
while os.read(0, 1):
    pass
note("orphaned")
"""


class Log:
    """What the parts of a house noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def part(self, name: str, what: str = "serves", **fields: object) -> Part:
        """A part that notes its start and its end."""
        return Part("worker", name, (str(self.folder), name, what), **fields)  # type: ignore[arg-type]  # by name

    @property
    def lines(self) -> list[str]:
        """In order."""
        file = self.folder / "log"
        return file.read_text().splitlines() if file.exists() else []

    def count(self, line: str) -> int:
        """How often a line was noted."""
        return self.lines.count(line)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """An empty log."""
    return Log(tmp_path)


@asynccontextmanager
async def living(*floors: tuple[list[Part], float]) -> AsyncIterator[House]:
    """A house that runs, and is ended."""
    house = House((sys.executable, "-c", PART), floors)
    running = asyncio.create_task(house.run())
    try:
        yield house
    finally:
        house.stop()
        await asyncio.wait_for(running, 60)


async def test_a_part_alone_gets_none_of_our_variables(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """But what any program needs, and what it is given: the others may hold tokens of vaults."""
    monkeypatch.setenv("GIVEN", "a token")
    parts = [
        log.part("usual"),
        log.part("alone", alone=True),
        log.part("handed", alone=True, environ={"GIVEN": "this"}),
    ]
    async with living((parts, 5.0)):
        await until(lambda: len(log.lines) == 3)
    assert {"usual starts a token", "alone starts -", "handed starts this"} <= set(log.lines)


async def test_floors_end_one_after_the_other(log: Log) -> None:
    """The next floor is told only when the one before has ended."""
    floors = [([log.part("page")], 5.0), ([log.part("w1"), log.part("w2")], 5.0), ([log.part("jobs")], 5.0)]
    async with living(*floors):
        await until(lambda: len(log.lines) == 4)
    ended = [line.split()[0] for line in log.lines[4:]]
    assert ended[0] == "page"
    assert set(ended[1:3]) == {"w1", "w2"}
    assert ended[3] == "jobs"


async def test_a_part_that_ends_is_started_again_after_growing_pauses(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And another beside it is left alone; both are told of in the log."""
    monkeypatch.setattr(house_module, "_PAUSES", (0.01, 0.02))
    async with living(([log.part("good"), log.part("bad", "fails")], 5.0)):
        await until(lambda: log.count("bad starts -") >= 3)
    assert log.count("good starts -") == 1
    said = "".join(capsys.readouterr())
    assert said.count("worker_ended") >= 2
    assert "exit_code=3" in said
    assert "worker=good" in said


async def test_a_part_that_does_not_end_is_killed(log: Log) -> None:
    """After its floor's time."""
    async with living(([log.part("deaf", "stubborn")], 0.2)):
        await until(lambda: log.lines == ["deaf starts -"])
    assert log.lines == ["deaf starts -"]


async def test_a_part_that_is_not_wanted_waits_until_it_is(log: Log) -> None:
    """With what it is given in its environment; one that never is holds up no end."""
    wanted, never = asyncio.Event(), asyncio.Event()
    late = log.part("late", wanted=wanted, environ={"GIVEN": "password"})
    async with living(([log.part("early")], 5.0), ([late, log.part("never", wanted=never)], 5.0)):
        await until(lambda: log.lines == ["early starts -"])
        wanted.set()
        await until(lambda: "late starts password" in log.lines)
    assert "password" not in repr(late)
    assert not any(line.startswith("never") for line in log.lines)


async def test_up_starts_the_process_that_notifies_when_there_is_somebody_to_tell(
    processes: Processes, embedded_home: Home
) -> None:
    """Also when the file says so later; it logs in as the user `jobs`, and ends with the house."""
    up = processes.start("up", "--no-ledger", "--no-dashboard")
    await until(lambda: "worker_ready" in processes.log or up.poll() is not None, 90)
    assert "jobs_launched" not in processes.log
    target = {"name": "bell", "kind": "command", "command": ["/bin/true"]}
    embedded_home.write(**{**ENV_FILES, "broker": f"provider: {{type: env}}\nnotifications: {json.dumps([target])}"})
    await until(lambda: "jobs_ready" in processes.log or up.poll() is not None, 90)
    with embedded_home.redis() as redis:
        await until(lambda: redis.smembers("rq:workers:notifications"), 90)
    password = user_url("unix:///x", embedded_home.queue_key, JOBS).split(":")[2].split("@")[0]
    assert password not in processes.log
    up.terminate()
    assert await processes.ended(up) == 0
    assert "jobs_stopped" in processes.log
    assert "queue=upstream" not in processes.log


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_extra_is_logged_and_costs_nothing_else(
    installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up` goes on without the part, and says what to install."""
    find: Callable[[str], object] = lambda _name: SimpleNamespace() if installed else None  # noqa: E731  # one line
    monkeypatch.setattr(up_module, "find_spec", find)
    assert up_module._can_run("jobs", main, ("starlette",)) is installed
    said = "".join(capsys.readouterr())
    assert ("jobs_not_started" in said) is not installed
    assert up_module._can_run("no-such-command", main, ()) is False
    assert isinstance(main, click.Group)
