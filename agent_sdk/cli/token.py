"""`secret-agent token`: the run's identity token, for programs that want a key."""

import click

from agent_sdk.cli.root import USAGE
from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.credential import RunCredential


@click.command()
@click.option("--force", is_flag=True, help="Print it on a terminal too.")
def token(force: bool) -> None:
    """Print the run's identity token: what `OPENAI_API_KEY` and its like hold when a program calls the local proxy.

    It is no service's key. Only the proxy and the gateway on this host take it, for this run and until the run ends.
    """
    if standard_output().isatty() and not force:
        click.echo("error: this would show the run's identity token on a terminal", err=True)
        click.echo('hint: use it in place: OPENAI_API_KEY="$(secret-agent token)"; or add --force', err=True)
        raise click.exceptions.Exit(USAGE)
    click.echo(RunCredential.load().token)
