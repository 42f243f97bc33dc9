"""`secret-agent scan`: where plaintext secrets stand, and never what they are."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from agent_sdk.cli.error_group import printable
from agent_sdk.cli.root import REFUSED, USAGE
from agent_sdk.scan.baseline import SALT_BYTES, Baseline
from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.finding import Finding
from agent_sdk.scan.history import Repository, scan_blobs
from agent_sdk.scan.report import Report, json_of, lines_of, summary_of
from agent_sdk.scan.tree import Scope, Tally, leaves_out, scan_paths

_MEBIBYTE: Final = 1024 * 1024
_MAX_JOBS: Final = 8
_NEXT: Final = (
    "hint: move them into the vault (`secret-broker migrate .env`) and replace what others could read; "
    "for what is none, end the line with `secret-scan: allow`, or keep a --baseline"
)


def _processors() -> int:
    return min(os.cpu_count() or 1, _MAX_JOBS)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--git", "of_history", is_flag=True, help="Scan the history of the repositories that PATHs are in.")
@click.option("--staged", is_flag=True, help="Scan what the next commit would add, as it stands in git's index.")
@click.option("--all", "enters_all", is_flag=True, help="Enter .git, node_modules, .venv and caches too.")
@click.option("--exclude", "excluded", multiple=True, metavar="GLOB", help="Leave out files and folders of such names.")
@click.option(
    "--baseline", type=click.Path(path_type=Path, dir_okay=False), help="Tell only what this file does not know."
)
@click.option("--update-baseline", is_flag=True, help="Write what was found into the baseline; leaves with 0.")
@click.option("--format", "form", type=click.Choice(["human", "json", "sarif"]), default="human", show_default=True)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=_processors, show_default="the processors", help="Processes at most."
)
@click.option(
    "--max-size",
    type=click.IntRange(1, 1024),
    default=10,
    show_default=True,
    metavar="MIB",
    help="Do not read larger files.",
)
def scan(
    paths: tuple[str, ...],
    of_history: bool,
    staged: bool,
    enters_all: bool,
    excluded: tuple[str, ...],
    baseline: Path | None,
    update_baseline: bool,
    form: str,
    jobs: int,
    max_size: int,
) -> None:
    """Find plaintext secrets in files and folders (the current one without PATH), or in git.

    Prints file, line, column and kind; never a value or a part of one. Reads files that git ignores too, as .env is
    ignored because it holds secrets. Asks nobody and sends nothing.

    Exit codes: 0 nothing new, 1 something new, 2 it, or a part of it, could not be read.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 must not end a scan
    if of_history and staged:
        raise click.UsageError("--git and --staged exclude each other")
    if update_baseline and baseline is None:
        raise click.UsageError("--update-baseline needs --baseline FILE")
    if baseline is None:
        known = Baseline(Path(), secrets.token_bytes(SALT_BYTES))
    try:
        if baseline is not None:
            known = Baseline.load(baseline, may_be_missing=update_baseline)
        left_out = frozenset() if baseline is None else frozenset({os.path.realpath(baseline)})
        scope = Scope(known.salt, enters_all, excluded, max_size * _MEBIBYTE, left_out)
        found, tally = _find(paths or (".",), scope, jobs, of_history=of_history, staged=staged)
        if update_baseline:
            roots = [Repository(path).top for path in paths or (".",)] if of_history else paths or (".",)
            updated = known.updated(found, roots, of_history=of_history, is_whole=not staged)
            updated.write()
            click.echo(f"{printable(str(baseline))}: {len(updated)} known", err=True)
            known = updated
    except ScanError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        click.echo(f"hint: {printable(error.hint)}", err=True)
        raise click.exceptions.Exit(USAGE) from None
    new = [each for each in found if each not in known]
    _show(Report(new, [each for each in found if each in known], tally, baseline is not None), form)
    if new:
        raise click.exceptions.Exit(REFUSED)
    if tally.unreadable:
        raise click.exceptions.Exit(USAGE)


def _find(
    paths: Sequence[str], scope: Scope, jobs: int, *, of_history: bool, staged: bool
) -> tuple[list[Finding], Tally]:
    if not (of_history or staged):
        return scan_paths(paths, scope, jobs)
    found: dict[str, list[Finding]] = {}
    tally = Tally()
    for path in paths:
        folder = path if os.path.isdir(path) else os.path.dirname(path) or "."  # noqa: PTH112, PTH120  # texts, as in `tree`
        repository = Repository(folder, in_hook=staged)
        if repository.top in found:
            continue
        top = os.path.relpath(repository.top)
        blobs = repository.staged(scope.max_bytes, tally) if staged else repository.blobs(scope.max_bytes, tally)
        shown = "" if top == "." else top
        found[repository.top] = scan_blobs(blobs, shown, scope.salt, tally, lambda each: leaves_out(each, scope))
    return [each for part in found.values() for each in part], tally


def _show(report: Report, form: str) -> None:
    if form == "json":
        click.echo(json_of(report))
    elif form == "sarif":
        from agent_sdk.scan.sarif import sarif_of  # noqa: PLC0415  # asks for the installed version, which takes a while

        click.echo(sarif_of(report))
    else:
        for line in lines_of(report):
            click.echo(line)
    for line in summary_of(report):
        click.echo(line, err=True)
    if report.new and form == "human":
        click.echo(_NEXT, err=True)
