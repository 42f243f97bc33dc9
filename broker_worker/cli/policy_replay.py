"""`secret-broker policy replay`: what another policy would have said to everything that was asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.audit import format_time
from broker_worker.audit.search import Query, UnreadableLines, find
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.cli.table import show_table
from broker_worker.cli.times import read_time, show_time
from broker_worker.core.errors import AuditError
from broker_worker.files.configuration import load_configuration
from broker_worker.ledger.replay import Change, Difference, Replay, UnusedGrant, replay
from broker_worker.settings import Settings

_TITLES: Sequence[tuple[Change, str]] = (
    ("refused", "would newly be refused"),
    ("allowed", "would newly be allowed"),
    ("asks", "would newly need a person's approval"),
)


@click.command("replay")
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--since", callback=read_time, default="7d", show_default=True, metavar="TIME", help="How far back.")
@click.option("--until", callback=read_time, metavar="TIME", help="Not newer; as --since.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="The audit folder, if not the home's.")
@click.option("--strict", is_flag=True, help="Leave with exit code 1 if anything would newly be refused or allowed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def replay_command(
    settings: Settings,
    candidate: Path,
    since: int,
    until: int | None,
    folder: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Decide everything that was asked lately by CANDIDATE: a policy by itself, or a whole set of files.

    Lists what would newly be refused, allowed, or need an approval, and the entries that nobody used. Rate limits and
    vaults are not replayed, nor is what the vault refused.
    """
    configuration = load_configuration(candidate)
    folder = folder or settings.audit_dir
    if not folder.is_dir():
        raise AuditError(f"there is no audit in {folder}", hint="`secret-broker up` begins it; or name --folder")
    query = Query(event="access", since=format_time(since), until=None if until is None else format_time(until))
    unreadable = UnreadableLines()
    found = replay(find(folder, query, unreadable), configuration)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        _show(found, since)
    if unreadable.count:
        click.echo(f"{unreadable.count} lines cannot be read; `secret-broker audit verify` says which", err=True)
    if strict and (found.of("refused") or found.of("allowed")):
        raise click.exceptions.Exit(FOUND_WRONG)


def _show(found: Replay, since: int) -> None:
    click.echo(f"{found.decisions} decisions since {show_time(since)}")
    for change, title in _TITLES:
        _show_differences(title, found.of(change))
    _show_unused(found.unused)


def _show_differences(title: str, differences: Sequence[Difference]) -> None:
    if not differences:
        click.echo(f"nothing {title}")
        return
    click.echo(f"{sum(each.count for each in differences)} {title}:")
    show_table(
        ("TIMES", "RUNS", "AGENT", "SECRET", "REASON", "RULE", "LAST"),
        [
            (
                str(each.count),
                str(each.runs),
                each.agent_id,
                each.secret_name,
                each.reason,
                each.rule or "-",
                show_time(each.last_at),
            )
            for each in differences
        ],
    )


def _show_unused(unused: Sequence[UnusedGrant]) -> None:
    if not unused:
        click.echo("every entry was used")
        return
    click.echo(f"{len(unused)} {'entry' if len(unused) == 1 else 'entries'} that nobody used:")
    for each in unused:
        role = "" if each.role is None else f", role {each.role}"
        click.echo(printable(f"  {each.agent_id}: {each.pattern} ({each.rule}{role})"))
