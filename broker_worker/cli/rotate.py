"""`secret-broker rotate`: a new version, tried before it is in force, and nothing pulled from under anybody."""

import asyncio
import json
import time

import click

from broker_worker.app.rotating import Progress
from broker_worker.app.rotating import rotate as go_on
from broker_worker.cli.revoke import BY
from broker_worker.cli.times import show_time
from broker_worker.cli.writing import checked_name
from broker_worker.settings import Settings


@click.command()
@click.argument("name", callback=checked_name)
@click.option("--no-wait", is_flag=True, help="Leave when the new version is in force; run it again to retire the old.")
@BY
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def rotate(settings: Settings, name: str, no_wait: bool, by: str, as_json: bool) -> None:
    """Give NAME a new version, as `rotation` of its entry in secrets.yaml says.

    The new value is kept as a draft, tried by the entry's probe, and put in force; then leases of the old version are
    waited for or revoked, and the draft is blanked. If this command is interrupted, run it again: it goes on where it
    was. If the probe fails, the old version stays in force, and the exit code is 1.
    """
    progress = asyncio.run(go_on(settings, name, by))
    while progress.wait_until is not None and not no_wait:
        if not as_json:
            click.echo(f"{name}: version {progress.state.version} is in force; {_until(progress)}")
        time.sleep(max(0.0, progress.wait_until / 1000 - time.time()))
        progress = asyncio.run(go_on(settings, name, by))
    if as_json:
        state = progress.state
        found = {"name": name, "step": state.step, "version": state.version, "replaces": state.replaces}
        click.echo(json.dumps({**found, "wait_until": progress.wait_until}))
    elif progress.wait_until is not None:
        click.echo(f"{name}: version {progress.state.version} is in force; {_until(progress)}: run this again then")
    else:
        click.echo(f"{name}: rotated, version {progress.state.version} in the place of {progress.state.replaces}")


def _until(progress: Progress) -> str:
    return f"leases of version {progress.state.replaces} end by {show_time(progress.wait_until or 0)}"
