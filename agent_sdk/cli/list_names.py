"""`secret-agent list`: what this run may ask for."""

import json

import click

from agent_sdk.cli.asking import JSON, TIMEOUT, ask


@click.command("list")
@TIMEOUT
@JSON
def list_names(timeout: float, as_json: bool) -> None:
    """List the names that this run may ask for, one a line; no value is released."""
    names = ask(lambda client: client.list_names(timeout=timeout))
    if as_json:
        click.echo(json.dumps({"names": list(names)}))
        return
    for name in names:
        click.echo(name)
