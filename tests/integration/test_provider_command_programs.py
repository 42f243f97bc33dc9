"""Programs as a vault, from their start to their end: what they find, how many run, and that nothing of them stays."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop
from command_workbench import ENVIRON, MakeScript, answer_of, kind_of, processes_of, provider_of
from desk_workbench import until
from provider_conformance import CANARY, MAX_VALUE, everything_said, failure_of

from broker_worker.core.commands import Command
from broker_worker.core.errors import FailureKind
from broker_worker.ports import Fetched
from broker_worker.providers.command import CONCURRENCY, CommandProvider


async def test_a_program_that_hangs_is_ended_with_all_that_it_started(script: MakeScript) -> None:
    """Also where it ended itself and left a child behind that holds its output open."""
    texts = ("sleep 4711 & exec sleep 4711", "sleep 4711 & exit 0", "trap '' TERM; sleep 4711")
    kinds = await asyncio.gather(*(kind_of(provider_of(script(text), timeout_seconds=1)) for text in texts))
    assert kinds == [FailureKind.TIMEOUT] * len(texts)
    await until(lambda: not processes_of("4711"))


async def test_cancelling_ends_the_program(script: MakeScript) -> None:
    """With all that it started, whether it runs or waits for its turn."""
    provider = provider_of(script("sleep 4712 & exec sleep 4712"))
    call = asyncio.create_task(provider.get_many(["exec://it"]))
    await until(lambda: len(processes_of("4712")) == 2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    await until(lambda: not processes_of("4712"))


async def test_few_programs_run_at_once(script: MakeScript, tmp_path: Path) -> None:
    """A command has four turns; another command does not wait for them."""
    slow = script("exec sleep 4713")
    commands = {"slow": Command((slow, "{name}"), timeout_seconds=10), "quick": Command(("printf", "x"))}
    provider = CommandProvider(commands, ENVIRON)
    call = asyncio.create_task(provider.get_many([f"exec://slow/n{i}" for i in range(3 * CONCURRENCY)]))
    await until(lambda: len(processes_of("4713")) == CONCURRENCY)
    assert await answer_of(provider, "exec://quick") == Fetched(b"x")
    assert len(processes_of("4713")) == CONCURRENCY
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_waiting_for_a_turn_counts(script: MakeScript) -> None:
    """So a slow command delays a call by no more than its own time, and what came in time is served."""
    provider = CommandProvider({"it": Command((script('sleep "$1"; echo x'), "{name}"), timeout_seconds=2)}, ENVIRON)
    refs = [
        *(f"exec://it/4{i}" for i in range(CONCURRENCY - 1)),
        "exec://it/0",
        "exec://it/0.0",
        "exec://it/50",
        "exec://it/51",
    ]
    async with asyncio.timeout(30):
        answers = await provider.get_many(refs)
    served = [ref for ref in refs if isinstance(answers[ref], Fetched)]
    assert served == ["exec://it/0", "exec://it/0.0"]


@pytest.mark.parametrize("program", ["no-such-program-here", "/nowhere/program", "text", "/tmp"])
async def test_a_program_that_is_not_there_is_a_health_problem(program: str, tmp_path: Path) -> None:
    """It is missing, no program, or a folder: the provider says so, and the vault as a whole fails."""
    (tmp_path / "text").touch(0o600)
    provider = provider_of(str(tmp_path / program) if program == "text" else program)
    health = await provider.health()
    assert not health.ok
    assert "command it" in health.detail
    error = await failure_of(provider.get_many(["exec://it"]))
    assert error.kind is FailureKind.UNREACHABLE


@pytest.mark.parametrize("text", ["#!/nowhere/interpreter\n", "no program\n"])
async def test_a_program_that_cannot_be_started_says_why(text: str, tmp_path: Path) -> None:
    """It looked like one until it was run."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o700)
    error = await failure_of(provider_of(str(program)).get_many(["exec://it"]))
    assert error.kind is FailureKind.UNREACHABLE
    assert "command it cannot be started: " in str(error)
    assert str(tmp_path) not in everything_said(error)


@pytest.mark.parametrize("path", [".", ""])
async def test_programs_are_looked_up_in_absolute_folders_only(
    path: str, tmp_path: Path, script: MakeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which the broker happens to stand is no place for programs."""
    monkeypatch.chdir(tmp_path)
    program = Path(script("echo x"))
    assert await kind_of(provider_of(program.name, environ={"PATH": path})) is FailureKind.UNREACHABLE
    found = provider_of(program.name, environ={"PATH": f"{path}{os.pathsep}{tmp_path}"})
    assert await answer_of(found) == Fetched(b"x")


async def test_a_program_gets_of_the_environment_what_is_named() -> None:
    """`PATH`, `HOME`, `LANG` and the variables of its command; nothing that the broker has beside."""
    answer = (await provider_of("env", env=("TOKEN", "UNSET")).get_many(["exec://it"]))["exec://it"]
    assert isinstance(answer, Fetched)
    found = dict(line.split("=", 1) for line in answer.value.decode().splitlines())
    assert found == {"PATH": ENVIRON["PATH"], "HOME": "/home/broker", "LANG": "C.UTF-8", "TOKEN": f"{CANARY}-token"}


async def test_a_program_has_nothing_to_read_and_no_files_of_the_broker(script: MakeScript) -> None:
    """Its standard input is empty, it stands in the root folder, and only its three streams are open."""
    answer = await answer_of(provider_of(script("cat; pwd; ls /proc/$$/fd")))  # a pipe would be one more open file
    assert isinstance(answer, Fetched)
    where, *open_files = answer.value.decode().splitlines()
    assert where == "/"
    assert set(open_files) <= {"0", "1", "2", "10"}, "10 is the script that the shell itself reads"
    assert {"0", "1", "2"} <= set(open_files)


def open_files_and_children() -> tuple[int, set[str]]:
    """How many files this process has open, and its children, those among them that ended and were not reaped."""
    children = {
        child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    }
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), children


async def test_what_ended_is_reaped_and_closed(script: MakeScript) -> None:
    """Neither processes nor open pipes pile up, whichever way a run ends."""
    before = open_files_and_children()
    slow = provider_of(script("exec sleep 4714"), timeout_seconds=1)
    for provider in (provider_of("printf", "x"), provider_of("false"), provider_of("no-such"), slow):
        await asyncio.gather(*(answer_of(provider) for _ in range(5)))
    assert open_files_and_children() == before


def test_on_the_loop_of_a_worker(script: MakeScript) -> None:
    """uvloop does the same: values, deadlines, stored values."""

    async def use() -> None:
        assert await answer_of(provider_of("printf", "x")) == Fetched(b"x")
        assert await kind_of(provider_of(script("sleep 4715 & sleep 4715"), timeout_seconds=1)) is FailureKind.TIMEOUT
        assert (
            await provider_of("true", put_argv=(script("exec cat >/dev/null"),)).put("exec://it", b"x" * MAX_VALUE)
            is None
        )
        await until(lambda: not processes_of("4715"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


async def test_exit_codes_that_would_be_lost_are_no_success() -> None:
    """Where whoever started the broker ignores SIGCHLD, nothing is run: a failure could not be told from a success."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert await kind_of(provider_of("printf", "x")) is FailureKind.UNREACHABLE
    finally:
        signal.signal(signal.SIGCHLD, before)
