"""`secret-broker demo`: the whole story in a minute, on real parts, with every claim checked."""

import asyncio
import signal
import sys
from pathlib import Path

import click

from broker_worker.cli.demo.cast import Agent, on_stage
from broker_worker.cli.demo.evidence import audit_trail, on_the_queue
from broker_worker.cli.demo.forging import forgeries
from broker_worker.cli.demo.house import POLICY, WORKERS, House, temporary_home
from broker_worker.cli.demo.lending import lent_and_ended
from broker_worker.cli.demo.pages import dashboard_pages, leave_running
from broker_worker.cli.demo.people import person_is_asked
from broker_worker.cli.demo.serving import everybody_asks, flood, killed_worker
from broker_worker.cli.demo.stage import Stage
from broker_worker.cli.demo.using import used_without_having
from broker_worker.cli.demo.writing import written_and_rotated
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.core.errors import SetupError

_NEXT = (
    ("secret-broker init", "an installation of your own, with a vault"),
    ("secret-broker vault set openai.api_key", "a value for it (or use 1Password: see README.md)"),
    ("secret-broker up", "the queue and the broker"),
    ("secret-broker launch --agent claude -- CMD", "an agent, which uses agent_sdk.SecretBroker()"),
    ("secret-broker approvers enrol NAME --group ops", "somebody who decides with a fingerprint"),
)


@click.command()
@click.option("--keep", is_flag=True, help="Keep the temporary home, to look around in it.")
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Leave the dashboard running at the end, until Ctrl-C; on a terminal that is the default.",
)
def demo(keep: bool, wait: bool | None) -> None:
    """Show it all: agents, policy, a flood, forgeries, an approval, a revocation, a rotation, a key that nobody has.

    Everything is real and happens in a temporary home; your own installation is not touched. The exit code is 1 if
    anything that it claims did not hold.
    """
    if sys.platform == "win32":
        raise SetupError("the demo needs the embedded server, which Windows has not", hint="use WSL")
    stage = Stage()
    with temporary_home(keep=keep) as home:
        try:
            asyncio.run(_play(stage, House(home), wait=stage.has_person if wait is None else wait))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    _farewell(stage, home if keep else None)
    if stage.failed:
        raise click.exceptions.Exit(FOUND_WRONG)


async def _play(stage: Stage, house: House, *, wait: bool) -> None:
    _end_cleanly_on_signals()
    _opening(stage, house)
    house.furnish()
    async with house.open(), on_stage(house) as agents:
        await _check_agents(stage, agents)
        await everybody_asks(stage, house, agents)
        await flood(stage, agents)
        await killed_worker(stage, house, agents)
        await forgeries(stage, house, agents)
        await person_is_asked(stage, house, agents)
        await lent_and_ended(stage, house, agents)
        await written_and_rotated(stage, house, agents)
        pages = await dashboard_pages(stage, house, agents)
        audit_trail(stage, house, agents)
        await used_without_having(stage, house, agents)
        on_the_queue(stage, house, agents, pages)
        _verdict(stage, house)
        if wait:
            await leave_running(stage, house, agents["codex"])


def _end_cleanly_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end the demo in order, so that nothing is left behind."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def end() -> None:
        if not task.cancelling():  # an impatient second Ctrl-C must not end the cleaning up
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)


def _opening(stage: Stage, house: House) -> None:
    stage.say(click.style("The Secret Broker", bold=True))
    stage.note(
        "Agents ask for secrets by name, over a queue that nobody trusts. Each gets what the policy allows, sealed to "
        "its run, limited and recorded; nothing else leaves the vault."
    )
    stage.say()
    stage.note(
        f"Home: {house.settings.home}. Running: Valkey on a unix socket, {len(WORKERS)} workers, the run "
        "ledger, the dashboard. The policy:"
    )
    for line in POLICY.splitlines():
        stage.say(f"     {line}".rstrip())
    stage.say()
    stage.note("Starting all that, and four agents …")


async def _check_agents(stage: Stage, agents: dict[str, Agent]) -> None:
    reports = [await agent.ready() for agent in agents.values()]
    stage.check(
        not any(report.broker_modules or report.broker_variables for report in reports),
        f"{len(reports)} agents launched: {', '.join(agents)}. Each took its credential from a descriptor; no key is "
        "in its environment, no code of the broker in its process",
    )


def _verdict(stage: Stage, house: House) -> None:
    """Say how many claims held; if not all did, also what may explain it."""
    if stage.failed:
        stage.say()
        stage.note("What the broker logged as errors (the killed worker among them):")
        for line in house.errors():
            stage.text(line)
    stage.say()
    held, failed = f"{stage.held} claims held", f"{stage.failed} failed"
    verdict = click.style(f"{held}, {failed}", fg="red" if stage.failed else "green", bold=True)
    stage.say(f"{verdict}, in {stage.seconds:.1f} s.")


def _farewell(stage: Stage, kept: Path | None) -> None:
    if kept is not None:
        stage.say(f"Kept: secret-broker --home {kept} audit tail (remove the folder when you are done)")
    else:
        stage.say("Everything is stopped and the temporary home is removed.")
    stage.say()
    stage.say("Next:")
    for command, what in _NEXT:
        stage.say(f"   {command:<48}{click.style(what, dim=True)}")
