"""`secret-broker cache`: what the sealed cache holds, its removal, and another wrapping of its key. Never a value."""

import json
import os
import sys
from collections.abc import Callable

import click

from broker_worker.app.clock import SystemClock
from broker_worker.app.sealing import sealed_store
from broker_worker.cache.sealed.store import SealedStore
from broker_worker.cache.sealed.wrapping import ORDER
from broker_worker.cli.root import FOUND_WRONG, USAGE
from broker_worker.cli.table import show_table
from broker_worker.cli.times import show_time
from broker_worker.core.configuration import SealedSettings
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.files.configuration import BROKER_FILE, load_configuration
from broker_worker.settings import Settings

NEW_PASSPHRASE_VARIABLE = "SECRET_BROKER_CACHE_NEW_PASSPHRASE"  # noqa: S105  # a variable's name


@click.group()
def cache() -> None:
    """Look after the sealed cache: the encrypted file in which values survive a restart, if broker.yaml says so."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show whether it opens here, what wraps its key, and what it holds; never values. Exit code 1 if it does not."""
    sealed = _section(settings)
    if sealed is None:
        click.echo(json.dumps({"sealed": False}) if as_json else "off: values are kept in memory only")
        return
    now, store = SystemClock().now(), _store(sealed, settings)
    try:
        found = store.examine()
    except SetupError as error:
        if not as_json:
            raise
        is_there = store.key_file.path.exists() or store.file.path.exists()
        click.echo(
            json.dumps({"sealed": True, "exists": is_there, "opens": False, "problem": str(error), "hint": error.hint})
        )
        raise click.exceptions.Exit(FOUND_WRONG) from None
    rows = [] if found is None else sorted(row for row in found.rows if row.until > now)
    if as_json:
        shown = {
            "sealed": True,
            "exists": found is not None,
            "opens": found is not None,
            "file": str(store.file.path),
            "key_file": str(store.key_file.path),
            "wrapped_by": found and found.kind,
            "key_id": found and found.key_id.hex(),
            "generation": found and found.generation,
            "bytes": found and found.size,
            "records": [
                {"ref": row.ref, "version": row.version, "fetched_at": row.fetched_at, "until": row.until}
                for row in rows
            ],
        }
        click.echo(json.dumps(shown, indent=2))
        return
    if found is None:
        click.echo(f"empty: a worker makes {store.file.path} when it starts")
        return
    click.echo(f"{store.file.path}: {len(rows)} values, {found.size} bytes, generation {found.generation}")
    click.echo(f"{store.key_file.path}: key {found.key_id.hex()}, wrapped by {found.kind}")
    if rows:
        cells = [(row.ref, row.version or "", show_time(row.fetched_at), show_time(row.until)) for row in rows]
        show_table(("REFERENCE", "VERSION", "FETCHED", "UNTIL"), cells)


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal it must be there.")
@click.pass_obj
def clear(settings: Settings, yes: bool) -> None:
    """Remove the file, its key and its counter: no copy of the file opens any more.

    A worker that runs keeps what it has in memory, and begins a new file. To have everything asked for anew, stop the
    broker, clear, start.
    """
    store = _store(_section(settings) or SealedSettings(), settings)
    if not yes and not sys.stdin.isatty():
        click.echo("error: nobody can be asked here whether the file and its key are to be removed", err=True)
        click.echo("hint: write `secret-broker cache clear --yes` if that is meant", err=True)
        raise click.exceptions.Exit(USAGE)
    if not yes:
        click.confirm(f"Remove {store.file.path} and its key?", abort=True, err=True)
    store.clear()
    click.echo("removed: file, key and counter")


@cache.command()
@click.option("--to", "kind", type=click.Choice(ORDER), help="What is to wrap it, if not what broker.yaml says.")
@click.pass_obj
def rewrap(settings: Settings, kind: str | None) -> None:
    """Wrap the key anew, as broker.yaml says, and keep the values: after another master_key, PCRs or passphrase.

    A new passphrase is asked for, or comes from SECRET_BROKER_CACHE_NEW_PASSPHRASE; the old one from where it was.
    """
    sealed = _section(settings)
    if sealed is None:
        raise ConfigError(
            "there is no sealed cache",
            file=str(settings.config_dir / BROKER_FILE),
            hint="write `cache: {sealed: true}` there",
        )
    if kind is not None and sealed.master_key not in {"auto", kind}:
        raise click.UsageError(f"broker.yaml says `master_key: {sealed.master_key}`; change it, or leave out --to")
    is_passphrase = (kind or sealed.master_key) == "passphrase"
    before, after = _store(sealed, settings, kind, _new_passphrase() if is_passphrase else None).rewrap()
    click.echo(f"the key was wrapped by {before} and is wrapped by {after} now; the values stay")


def _section(settings: Settings) -> SealedSettings | None:
    return load_configuration(settings.config_dir).cache.sealed


def _store(
    sealed: SealedSettings,
    settings: Settings,
    kind: str | None = None,
    new_passphrase: Callable[[], bytes] | None = None,
) -> SealedStore:
    return sealed_store(sealed, settings, SystemClock(), new_passphrase=new_passphrase, kind=kind)


def _new_passphrase() -> Callable[[], bytes] | None:
    """What gives a new passphrase, asked for before any lock is held; None for the one that the section names."""
    text = os.environ.get(NEW_PASSPHRASE_VARIABLE)
    if not text and sys.stdin.isatty():
        text = click.prompt("Passphrase from now on", hide_input=True, confirmation_prompt=True, err=True)
    return None if not text else lambda: str(text).encode("utf-8", "surrogateescape")
