"""`secret-agent put`: store a value, which is asked for or piped in."""

import click

from agent_sdk.cli.asking import JSON, NAME, PURPOSE, REPLACES, TIMEOUT, ask
from agent_sdk.cli.root import USAGE
from agent_sdk.cli.standard_streams import read_value
from agent_sdk.cli.stored import show_stored


@click.command(context_settings={"ignore_unknown_options": True})
@NAME
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
@REPLACES
@click.option("--raw", is_flag=True, help="Keep the line feed at the end of what is piped in.")
@PURPOSE
@TIMEOUT
@JSON
def put(
    name: str, rest: tuple[str, ...], replaces: str | None, raw: bool, purpose: str, timeout: float, as_json: bool
) -> None:
    """Store a value under NAME: asked for without echo, or piped in.

    A name is created unless --replaces says which version is there. Needs `write` in the policy.
    """
    if rest:
        click.echo(
            "error: a value on the command line can be read by others and stays in the shell's history", err=True
        )
        click.echo("hint: leave it out to be asked for it, or pipe it in; replace the value that you typed", err=True)
        raise click.exceptions.Exit(USAGE)
    value = read_value(raw=raw)
    show_stored(
        ask(lambda client: client.put(name, value, purpose=purpose, replaces=replaces, timeout=timeout)),
        as_json=as_json,
    )
