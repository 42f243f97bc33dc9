"""What the demo does when a person is at the terminal, and what its acts about people rest on."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest

from broker_worker.cli import main
from broker_worker.cli.demo import deciding, lending, pages
from broker_worker.cli.demo.cast import Answer
from broker_worker.cli.demo.house import GUARDED, GUARDED_LINES, POLICY, House
from broker_worker.cli.demo.stage import Stage
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration

NOW = 1_790_000_000_000


def lease(agent: str, uses: int, **other: Any) -> dict[str, Any]:
    """A lease as `leases list --json` shows it, open for half a minute more."""
    shown = {"agent_id": agent, "secret_name": "openai.api_key", "uses": uses, "open": True, "until": NOW + 30_500}
    return {**shown, "expires_at": NOW + 30_500, "end_reason": None, **other}


class Installation:
    """Stands for the demo's installation: notes which commands are run, and fails those that it is told to."""

    def __init__(self, *, failing: str = "", link: str = "http://localhost:7710/login?token=t") -> None:
        self.settings = House(Path("home")).settings
        self.ran: list[str] = []
        self._failing = failing
        self._link = link

    async def run(self, *arguments: str) -> str:
        """Run a command."""
        self.ran.append(arguments[0])
        if arguments[0] == self._failing:
            raise SetupError("it cannot be decided any more")
        return self._link if arguments[0] == "dashboard" else f"{arguments[0]} said"

    async def has_dashboard(self) -> bool:
        """Whether there is a link."""
        return bool(self._link)


def test_guarded_name_is_added_and_nothing_else_changes(tmp_path: Path) -> None:
    """The operator's change is the shown lines below codex; everything else stands as it was."""
    house = House(tmp_path / "home")
    house.furnish()
    before = load_configuration(house.settings.config_dir).policy.agents
    house.guard()
    path = house.settings.config_dir / "policy.yaml"
    assert path.read_text().replace(GUARDED_LINES, "") == POLICY
    configuration = load_configuration(house.settings.config_dir)
    assert GUARDED in configuration.registry
    after = configuration.policy.agents
    added = [grant for grant in after["codex"].grants if grant.pattern.text == GUARDED]
    assert [grant.approval.approvers for grant in added if grant.approval] == [("ops",)]
    assert len(after["codex"].grants) == len(before["codex"].grants) + 1
    assert {name: len(agent.grants) for name, agent in after.items() if name != "codex"} == {
        name: len(agent.grants) for name, agent in before.items() if name != "codex"
    }


async def test_failed_command_is_told_with_its_words(tmp_path: Path) -> None:
    """A command of the installation that fails ends the demo with what the command said."""
    with pytest.raises(SetupError, match=r"`secret-broker policy check` failed: error: .*config: does not exist"):
        await House(tmp_path).run("policy", "check")


async def test_nobody_at_a_terminal_means_alice_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """The request is shown in words, with the dashboard's link, and then approved by a command."""
    house: Any = Installation()
    waiting = asyncio.ensure_future(asyncio.sleep(60))
    await deciding.decide(Stage(), house, "00112233", waiting)
    waiting.cancel()
    assert house.ran == ["approvals", "dashboard", "approve"]
    out = capsys.readouterr().out
    assert "http://localhost:7710/login?token=t" in out
    assert "Nobody is at a terminal, so the demo does it with alice's key." in out


async def test_person_who_decided_is_not_decided_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody at the terminal decides in time, the demo signs nothing."""
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def decides(_stage: Stage, _house: House, decided: "asyncio.Future[None]") -> None:
        decided.set_result(None)

    monkeypatch.setattr(deciding, "_await_guest", decides)
    house, stage = Installation(), Stage()
    stage.has_person = True
    await deciding.decide(stage, house, "00112233", waiting)  # type: ignore[arg-type]  # stands for them
    assert "approve" not in house.ran


async def test_person_may_be_faster_than_the_demo() -> None:
    """A decision that comes while the demo signs its own is taken; without one, the failure is told."""
    decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house: Any = Installation(failing="approve")
    asyncio.get_running_loop().call_later(0.05, decided.set_result, None)
    await deciding.decide(Stage(), house, "00112233", decided)  # type: ignore[arg-type]  # stands for a task


async def test_failing_approval_without_a_decision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo does not wait for ever for somebody who was not there."""
    monkeypatch.setattr(deciding, "_SETTLE_SECONDS", 0.01)
    undecided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house: Any = Installation(failing="approve")
    with pytest.raises(SetupError, match="cannot be decided any more"):
        await deciding.decide(Stage(), house, "00112233", undecided)  # type: ignore[arg-type]  # stands for a task


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
async def test_enter_at_the_terminal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is entered ends the wait, and the terminal is not read any more afterwards."""
    ours, theirs = os.openpty()
    try:
        with os.fdopen(theirs) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            with deciding.enter() as entered:
                os.write(ours, b"\n")
                async with asyncio.timeout(45):
                    await entered
            assert not asyncio.get_running_loop().remove_reader(terminal.fileno())
    finally:
        os.close(ours)


async def test_dashboard_is_left_running_until_the_end_is_ordered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The link is shown, codex's answer is told when it comes, and being cancelled is no failure."""
    answered = asyncio.Event()

    class Codex:
        name = "codex"
        answers = (Answer(name=GUARDED, purpose="p", outcome="approval_pending", started=0, ended=0, retry_after=9),)

        async def ask(self, *_: object, **options: float) -> list[Answer]:
            assert options["timeout"] > 9
            answered.set()
            return [Answer(name=GUARDED, purpose="p", outcome="approval_denied", started=0, ended=0)]

    async def nobody(_house: House) -> str:
        return "http://localhost:7710/login?token=t"

    monkeypatch.setattr(pages, "dashboard_link", nobody)
    monkeypatch.setattr(pages, "_is_enrolled", lambda _house: True)
    house: Any = Installation()
    codex: Any = Codex()
    left = asyncio.create_task(pages.leave_running(Stage(), house, codex))
    await answered.wait()
    await asyncio.sleep(0)
    assert not left.done()
    left.cancel()
    await left
    out = capsys.readouterr().out
    assert "The dashboard is left running." in out
    assert "approval_denied" in out


async def test_nothing_is_left_running_without_a_dashboard() -> None:
    """Where it is not installed, the demo ends by itself."""
    house: Any = Installation(link="")
    codex: Any = None
    async with asyncio.timeout(45):
        await pages.leave_running(Stage(), house, codex)


def test_holders_are_shown_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Leases of several workers for one run are one row; what is over says how it ended."""
    monkeypatch.setattr(lending, "now_ms", lambda: NOW)
    over = {"open": False, "until": NOW - 5}
    lending.show_leases(
        Stage(),
        [
            lease("claude", 1),
            lease("claude", 2, until=NOW + 10_000),
            lease("codex", 1, **over, expires_at=NOW - 5),
            lease("grok", 1, **over),
        ],
    )
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "claude openai.api_key lent 2 leases, 3 uses, 30s to go",
        "codex openai.api_key expired 1 lease, 1 use",
        "grok openai.api_key revoked 1 lease, 1 use",
    ]


@pytest.mark.parametrize(("option", "expected"), [((), False), (("--wait",), True), (("--no-wait",), False)])
def test_only_a_terminal_is_waited_at(monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], expected: bool) -> None:
    """Without a terminal the demo ends by itself, unless it is told otherwise."""
    waits: list[bool] = []

    async def play(_stage: Stage, _house: House, *, wait: bool) -> None:
        waits.append(wait)

    callback = main.commands["demo"].callback
    assert callback is not None
    monkeypatch.setitem(callback.__globals__, "_play", play)
    assert click.testing.CliRunner().invoke(main, ["demo", *option]).exit_code == 0
    assert waits == [expected]
