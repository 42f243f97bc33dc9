"""`secret-broker vault`: make the local vault, and put, list and remove its entries. Values are never shown."""

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from agent_sdk.cli.standard_streams import read_value
from broker_worker.cli.root import USAGE
from broker_worker.files.keys import create_seed, load_seed
from broker_worker.private_files import make_private_folder
from broker_worker.providers.local_vault import PASSPHRASE_VARIABLE, LocalVault, VaultKeys, check_entry_name
from broker_worker.providers.vault_format import KeyParameters
from broker_worker.settings import Settings


@click.group()
@click.option("--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="The vault, if not the home's.")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="Its key file, if not the home's.")
@click.pass_context
def vault(ctx: click.Context, file: Path | None, key_file: Path | None) -> None:
    """Keep values in an encrypted file on this host.

    A vault opens with a key file, or with a passphrase from SECRET_BROKER_VAULT_PASSPHRASE or a prompt. Give --file
    and --key-file if broker.yaml says `path` and `key_file`.
    """
    settings = ctx.find_object(Settings) or Settings.load()
    ctx.obj = _Vault(file or settings.vault_file, key_file or settings.keys_dir / "vault.key")


class _Vault:
    """The vault that the command line names."""

    def __init__(self, path: Path, key_file: Path) -> None:
        self.path = path
        self.key_file = key_file

    def opened(self, *, new: bool = False) -> LocalVault:
        return LocalVault(self.path, VaultKeys(lambda: load_seed(self.key_file), lambda: _passphrase(confirm=new)))


def _passphrase(*, confirm: bool) -> str | None:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if passphrase or not sys.stdin.isatty():
        return passphrase
    return str(click.prompt("Passphrase of the vault", hide_input=True, confirmation_prompt=confirm, err=True))


@vault.command()
@click.option("--passphrase", is_flag=True, help="Open it with a passphrase in place of a key file.")
@click.pass_obj
def create(chosen: _Vault, passphrase: bool) -> None:
    """Make an empty vault, and its key file if there is none yet."""
    make_private_folder(chosen.path.parent)
    if not passphrase and not chosen.key_file.exists():
        make_private_folder(chosen.key_file.parent)
        create_seed(chosen.key_file)
    parameters = KeyParameters.of_passphrase() if passphrase else KeyParameters.of_key_file()
    chosen.opened(new=True).create(parameters)
    opens = "your passphrase" if passphrase else str(chosen.key_file)
    click.echo(f"made {chosen.path}, which opens with {opens}; keep a copy of that in another place")


@vault.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option("--raw", is_flag=True, help="Keep the line feed at the end of what is piped in.")
@click.pass_obj
def set_entry(chosen: _Vault, name: str, rest: tuple[str, ...], raw: bool) -> None:
    """Store a value under NAME: asked for without echo, or piped in; never on the command line.

    One line feed at the end of what is piped in is dropped, unless --raw is given.
    """
    if rest:
        click.echo(
            "error: a value on the command line can be read by others and stays in the shell's history", err=True
        )
        click.echo("hint: leave it out to be asked for it, or pipe it in; replace the value that you typed", err=True)
        raise click.exceptions.Exit(USAGE)
    check_entry_name(name)
    opened = chosen.opened()
    opened.describe()  # a wrong passphrase is found before a value is typed, and while no lock is held
    version = opened.set(name, read_value(raw=raw), time.time_ns() // 1_000_000)
    click.echo(f"{name}: version {version}; its reference is local://{name}")


@vault.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_entries(chosen: _Vault, as_json: bool) -> None:
    """List names, versions and times of the last change; never values."""
    rows = [
        {"name": name, "version": version, "updated_at": _timestamp(updated_at)}
        for name, (version, updated_at) in chosen.opened().describe().items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  version {row['version']:<4} {row['updated_at']}")
    if not rows:
        click.echo("the vault is empty: `secret-broker vault set NAME` adds an entry", err=True)


@vault.command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal it must be there.")
@click.pass_obj
def remove(chosen: _Vault, name: str, yes: bool) -> None:
    """Remove NAME and its value for good."""
    if not yes and not sys.stdin.isatty():
        click.echo("error: nobody can be asked here whether the value is to be removed for good", err=True)
        click.echo("hint: add --yes if that is meant", err=True)
        raise click.exceptions.Exit(USAGE)
    if not yes:
        click.confirm(f"Remove {name} for good?", abort=True, err=True)
    chosen.opened().remove(name)
    click.echo(f"{name}: removed")


def _timestamp(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
