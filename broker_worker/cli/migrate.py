"""`secret-broker migrate`: env files give their secrets to the vault and keep references."""

import asyncio
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from agent_sdk.cli.error_group import printable
from broker_worker.app.config_additions import Additions, plan_additions
from broker_worker.app.migrating import migrate
from broker_worker.app.migrating import restore as put_back
from broker_worker.app.migration_plan import (
    Choice,
    EnvPlan,
    check_template,
    plan_file,
    refuse_clashes,
    refuse_unknown,
)
from broker_worker.app.seen_by_git import seen_by_git
from broker_worker.cli.revoke import BY
from broker_worker.cli.root import USAGE
from broker_worker.files.configuration import load_configuration
from broker_worker.settings import Settings


def _pairs(_ctx: click.Context, _param: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """`VARIABLE=NAME`, several times (click's callback)."""
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all(key and value for key, value in pairs.items()):
        raise click.BadParameter("expected VARIABLE=NAME")
    return pairs


_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option("--to", metavar="REF", help="Where new names are kept, such as 'op://Agents/{name}/credential'."),
    click.option("--agent", "agents", multiple=True, metavar="ID", help="Who may have them; several times."),
    click.option("--prefix", metavar="P", help="Begin every name with P."),
    click.option(
        "--name", "names", multiple=True, callback=_pairs, metavar="VARIABLE=NAME", help="A variable's secret."
    ),
    click.option("--include", multiple=True, metavar="VARIABLE", help="Move this one too; several times."),
    click.option("--exclude", multiple=True, metavar="VARIABLE", help="Leave this one; several times."),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option(
        "--restore", type=click.Path(path_type=Path, dir_okay=False), help="Put an env file back from its backup."
    ),
    click.option("--force", is_flag=True, help="With --restore: replace a file that was changed since."),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("migrate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_with_options
@BY
@click.pass_obj
def migrate_files(
    settings: Settings,
    files: tuple[Path, ...],
    to: str | None,
    agents: tuple[str, ...],
    prefix: str | None,
    names: dict[str, str],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    restore: Path | None,
    force: bool,
    by: str,
) -> None:
    """Move the secrets of env FILES into the vault; the files keep NAME=secret://name, and all else as it is.

    A sealed backup of each file is kept. Vault first, then registry and policy, then the env file: if it is
    interrupted, run it again. No value is shown.
    """
    if restore is not None:
        _restore(settings, restore, force=force)
        return
    if not files:
        raise click.UsageError("name one or more env files")
    configuration = load_configuration(settings.config_dir)
    if to is not None:
        try:
            check_template(to, configuration)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--to") from None
    choice = Choice(to, prefix, names, frozenset(include), frozenset(exclude), agents)
    plans = [plan_file(path, configuration, choice) for path in dict.fromkeys(path.resolve() for path in files)]
    refuse_clashes(plans)
    refuse_unknown(plans, {*include, *names})
    moves = [move for plan in plans for move in plan.moves]
    if not moves:
        for name in dict.fromkeys(printable(name) for plan in plans for name in plan.doubtful):
            click.echo(f"{name} stays: its value does not look like a secret's (--include {name})")
        _show_left(plans)
        click.echo("no secret found: nothing to move (--include VARIABLE moves one all the same)")
        return
    additions = plan_additions(settings, moves, agents, configuration)
    _show(plans, additions)
    _warn(plans, agents)
    if dry_run:
        click.echo("nothing was done (--dry-run)")
        return
    _confirm(len(moves), yes=yes)
    outcome = asyncio.run(migrate(settings, plans, additions, by))
    for backup in outcome.backups:
        click.echo(f"backup: {backup}")
    click.echo(f"{len(outcome.stored)} stored, {len(outcome.found)} were in the vault already")
    click.echo("to put a file back: secret-broker migrate --restore BACKUP; remove the backup when nobody needs it")


def _restore(settings: Settings, backup: Path, *, force: bool) -> None:
    path, is_changed = put_back(settings, backup, force=force)
    click.echo(f"{path}: " + ("restored; it holds plaintext again" if is_changed else "is as the backup has it"))


def _show(plans: Sequence[EnvPlan], additions: Additions) -> None:
    for plan in plans:
        click.echo(f"{printable(str(plan.path))}:")
        for move in plan.moves:
            click.echo(f"  line {move.line}: {printable(move.variable)} -> secret://{move.name}, kept at {move.ref}")
        for name in map(printable, plan.doubtful):
            click.echo(f"  {name} stays: its name is of a secret, its value does not look like one (--include {name})")
    _show_left(plans)
    for change in additions.changes:
        path = str(change.path)
        before, after = (text.decode().splitlines(keepends=True) for text in (change.before, change.after))
        click.echo("".join(difflib.unified_diff(before, after, path, path)), nl=False)


def _show_left(plans: Sequence[EnvPlan]) -> None:
    for plan in plans:
        for line in plan.left:
            click.echo(f"{printable(str(plan.path))}:{line} keeps plaintext: a comment or the like; remove it by hand")


def _warn(plans: Sequence[EnvPlan], agents: Sequence[str]) -> None:
    seen, notes = seen_by_git(plans)
    for each in seen:
        where = f"commit {each.commit[:12]}, {printable(each.path)}"
        click.echo(f"rotate {printable(each.variable)}: git has it ({where}); moving it does not take it back")
    if not seen and len(notes) < len(plans):
        click.echo("git has none of these values")
    for note in notes:
        click.echo(f"note: {printable(note)}")
    if not agents:
        click.echo("note: no agent is given them (--agent ID gives them); what the policy says already holds")


def _confirm(count: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        click.echo("error: nobody to ask: the standard input is no terminal", err=True)
        click.echo("hint: look with --dry-run, then say --yes", err=True)
        raise click.exceptions.Exit(USAGE)
    click.confirm(f"Move {count} into the vault and change these files?", abort=True, err=True)
