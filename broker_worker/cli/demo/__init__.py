"""`secret-broker demo`: the whole story in a minute, on real parts, with every claim checked."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import click

from broker_worker.cli.demo.cast import Agent, on_stage
from broker_worker.cli.demo.evidence import audit_trail, on_the_queue
from broker_worker.cli.demo.forging import forgeries
from broker_worker.cli.demo.house import POLICY, WORKERS, House, temporary_home
from broker_worker.cli.demo.serving import everybody_asks, flood, killed_worker
from broker_worker.cli.demo.stage import Stage
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.core.errors import SetupError

_NEXT = (
    ("secret-broker init", "an installation of your own, with an encrypted vault"),
    ("secret-broker vault set openai.api_key", "a value for it (or use 1Password: see README.md)"),
    ("secret-broker up", "the queue and the broker"),
    ("secret-broker launch --agent claude -- CMD", "an agent, which uses agent_sdk.SecretBroker()"),
)


@click.command()
@click.option("--keep", is_flag=True, help="Keep the temporary home, to look around in it.")
def demo(keep: bool) -> None:
    """Show it all in a minute: four agents, a policy, a flood, a killed worker, forgeries, the audit.

    Everything is real and happens in a temporary home; your own installation is not touched. The exit code is 1 if
    anything that it claims did not hold.
    """
    if sys.platform == "win32":
        raise SetupError("the demo needs the embedded server, which Windows has not", hint="use WSL")
    started = time.monotonic()
    stage = Stage()
    with temporary_home(keep=keep) as home:
        try:
            asyncio.run(_play(stage, House(home)))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    _summary(stage, time.monotonic() - started, home if keep else None)
    if stage.failed:
        raise click.exceptions.Exit(FOUND_WRONG)


async def _play(stage: Stage, house: House) -> None:
    _end_cleanly_on_signals()
    _opening(stage, house)
    house.furnish()
    async with house.open(), on_stage(house) as agents:
        await _check_agents(stage, agents)
        await everybody_asks(stage, house, agents)
        await flood(stage, agents)
        await killed_worker(stage, house, agents)
        await forgeries(stage, house, agents)
        audit_trail(stage, house, agents)
        on_the_queue(stage, house, agents)
    if stage.failed:
        stage.say()
        stage.note("What the broker logged as errors (the killed worker among them):")
        for line in house.errors():
            stage.text(line)


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
    stage.note(f"Home: {house.settings.home}. Running: Valkey on a unix socket, {len(WORKERS)} workers. The policy:")
    for line in POLICY.splitlines():
        stage.say(f"     {line}".rstrip())
    stage.say()
    stage.note("Starting the queue, the workers and four agents …")


async def _check_agents(stage: Stage, agents: dict[str, Agent]) -> None:
    reports = [await agent.ready() for agent in agents.values()]
    stage.check(
        not any(report.broker_modules or report.broker_variables for report in reports),
        f"{len(reports)} agents launched: {', '.join(agents)}. Each took its credential from a descriptor; no key is "
        "in its environment, no code of the broker in its process",
    )


def _summary(stage: Stage, seconds: float, kept: Path | None) -> None:
    stage.say()
    held, failed = f"{stage.held} claims held", f"{stage.failed} failed"
    verdict = click.style(f"{held}, {failed}", fg="red" if stage.failed else "green", bold=True)
    stage.say(f"{verdict}, in {seconds:.1f} s.")
    if kept is not None:
        stage.say(f"Kept: secret-broker --home {kept} audit tail (remove the folder when you are done)")
    else:
        stage.say("Everything is stopped and the temporary home is removed.")
    stage.say()
    stage.say("Next:")
    for command, what in _NEXT:
        stage.say(f"   {command:<44}{click.style(what, dim=True)}")
