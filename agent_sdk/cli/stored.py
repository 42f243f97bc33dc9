"""What the commands that store something say when it is stored."""

import json

import click

from agent_sdk.outcome import Stored


def show_stored(stored: Stored, *, as_json: bool) -> None:
    """Print name and version of what was stored."""
    if as_json:
        click.echo(json.dumps({"name": stored.name, "version": stored.version}))
        return
    click.echo(f"{stored.name}: stored" + ("" if stored.version is None else f", version {stored.version}"))
