"""`secret-broker audit export`: the audit in the form that another system reads."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, get_args

import click

from agent_sdk.wire.audit import format_time
from broker_worker.audit.search import Query, UnreadableLines, find
from broker_worker.cli.run_name import of_agent
from broker_worker.cli.times import read_time
from broker_worker.core.errors import AuditError, SetupError
from broker_worker.ledger.export import FORMATS, Format, csv_header
from broker_worker.private_files import create_private
from broker_worker.settings import Settings


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="jsonl",
    show_default=True,
    help="cloudevents: 1.0.2 in JSON; ocsf: 1.3.0, class API Activity (6003); one object a line.",
)
@click.option("--since", callback=read_time, metavar="TIME", help="Not older: 1h, 7d ago, or 2026-01-31T12:00:00Z.")
@click.option("--until", callback=read_time, metavar="TIME", help="Not newer; as --since.")
@click.option("--agent", help="Only this agent.")
@click.option("--run", help="Only this run: RUN or AGENT/RUN.")
@click.option("--secret", help="Only this secret name.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="The audit folder, if not the home's.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A new file, mode 0600, instead of stdout."
)
@click.pass_obj
def export(
    settings: Settings,
    form: Format,
    since: int | None,
    until: int | None,
    agent: str | None,
    run: str | None,
    secret: str | None,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Print the audit by time, oldest first, in a form that other systems read; nothing is verified here."""
    agent, run = of_agent(agent, run)
    query = Query(
        agent=agent,
        run=run,
        secret=secret,
        since=None if since is None else format_time(since),
        until=None if until is None else format_time(until),
    )
    unreadable, write, events = UnreadableLines(), FORMATS[form], 0
    folder = folder or settings.audit_dir
    if not folder.is_dir():
        raise AuditError(f"there is no audit in {folder}", hint="`secret-broker up` begins it; or name --folder")
    with _opened(output) as stream:
        if form == "csv":
            stream.write(csv_header() + "\r\n")
        end = "\r\n" if form == "csv" else "\n"
        for event in find(folder, query, unreadable):
            stream.write(write(event) + end)
            events += 1
    if output is not None:
        click.echo(f"{output}: {events} events", err=True)
    if unreadable.count:
        click.echo(f"{unreadable.count} lines cannot be read; `secret-broker audit verify` says which", err=True)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    create_private(output, b"")
    try:
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield stream
    except OSError as error:
        raise SetupError(f"{output} cannot be written: {error.strerror}", hint="is there room for it?") from error
