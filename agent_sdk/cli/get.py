"""`secret-agent get`: one value, to a pipe or a private file."""

from pathlib import Path

import click

from agent_sdk.cli.asking import FORCE, NAME, PURPOSE, TIMEOUT, ask
from agent_sdk.cli.private_output import check_output, write_output
from agent_sdk.cli.root import USAGE
from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.wire.messages import Way


@click.command()
@NAME
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it to a file of mode 0600."
)
@FORCE
@PURPOSE
@TIMEOUT
def get(name: str, output: Path | None, force: bool, purpose: str, timeout: float) -> None:
    """Print the value of NAME: exactly its bytes, without a line feed of ours.

    For scripts: KEY=$(secret-agent get openai.api_key). A terminal keeps what it shows, so there --force is needed.
    """
    if output == Path("-"):
        output = None
    on_terminal = output is None and standard_output().isatty()
    if on_terminal and not force:
        click.echo("error: standard output is a terminal, which would keep the value on its screen", err=True)
        click.echo("hint: name a file with -o, use a pipe or $(…), `secret-agent run`, or --force", err=True)
        raise click.exceptions.Exit(USAGE)
    if output is not None:
        check_output(output, force=force)
    way: Way = "value" if output is None else "file"
    secret = ask(lambda client: client.get(name, purpose=purpose, timeout=timeout, deliver=way))
    value = secret.reveal_bytes()
    if output is not None:
        write_output(output, value, force=force)
        return
    write_output(Path("-"), value + b"\n" if on_terminal else value, force=force)
