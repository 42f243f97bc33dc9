"""`secret-agent inject`: a template with references becomes a file with values."""

from pathlib import Path

import click

from agent_sdk.cli.asking import FORCE, PURPOSE, TIMEOUT, ask
from agent_sdk.cli.private_output import check_output, write_output
from agent_sdk.cli.standard_streams import standard_input, standard_output
from agent_sdk.errors import InvalidRequest
from agent_sdk.run.env_file import read_input
from agent_sdk.template import MAX_TEMPLATE, Template


@click.command()
@click.option(
    "-i", "--input", "source", metavar="TEMPLATE", required=True, type=click.Path(path_type=Path), help="- is stdin."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="A file, made with mode 0600; a pipe; - is stdout.",
)
@FORCE
@PURPOSE
@TIMEOUT
def inject(source: Path, output: Path, force: bool, purpose: str, timeout: float) -> None:
    """Fill a template: each {{ secret://NAME }} becomes the value of NAME, everything else stays as it is.

    All values are asked for in one request; if one is refused, nothing is written.
    """
    if str(output) == "-" and standard_output().isatty() and not force:
        raise InvalidRequest(
            "standard output is a terminal, which would keep values on its screen: name a file, or --force"
        )
    check_output(output, force=force)
    template = Template(_read(source), "standard input" if str(source) == "-" else str(source))
    values = {}
    if template.names:
        held = ask(lambda client: client.get_many(template.names, purpose=purpose, timeout=timeout, deliver="file"))
        values = {name: secret.reveal_bytes() for name, secret in held.items()}
    write_output(output, template.filled(values), force=force)


def _read(source: Path) -> bytes:
    raw = standard_input().buffer.read(MAX_TEMPLATE + 1) if str(source) == "-" else read_input(source, MAX_TEMPLATE + 1)
    if len(raw) > MAX_TEMPLATE:
        raise InvalidRequest(f"{source}: longer than {MAX_TEMPLATE} bytes; is it the right file?")
    return raw
