"""`secret-broker put` and `generate`: an operator stores a value where agents would."""

import asyncio
import json

import click

from agent_sdk.cli.standard_streams import read_value
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_secret_name
from broker_worker.app.operator_vault import WriteAction, operator_vault
from broker_worker.cli.revoke import BY
from broker_worker.cli.root import USAGE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.recipes import parse_recipe
from broker_worker.pipeline.generating import generate as make
from broker_worker.ports import Fetched
from broker_worker.providers.local_vault import check_value
from broker_worker.settings import Settings


def checked_name(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    """A canonical secret name (click's callback)."""
    try:
        return check_secret_name(text)
    except WireError as error:
        raise click.BadParameter(str(error)) from None


_NAME = click.argument("name", callback=checked_name)
_REPLACES = click.option("--replaces", metavar="V", help="Replace this version; without it the name is created.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(context_settings={"ignore_unknown_options": True})
@_NAME
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
@_REPLACES
@click.option("--raw", is_flag=True, help="Keep the line feed at the end of what is piped in.")
@BY
@_JSON
@click.pass_obj
def put(
    settings: Settings, name: str, rest: tuple[str, ...], replaces: str | None, raw: bool, by: str, as_json: bool
) -> None:
    """Store a value under NAME, where secrets.yaml keeps it: asked for without echo, or piped in.

    Every worker drops its copies of an older version, and runs that hold one are told. A name is created unless
    --replaces says which version is there.
    """
    if rest:
        click.echo(
            "error: a value on the command line can be read by others and stays in the shell's history", err=True
        )
        click.echo("hint: leave it out to be asked for it, or pipe it in; replace the value that you typed", err=True)
        raise click.exceptions.Exit(USAGE)
    value = read_value(raw=raw)
    check_value(value)
    _show(name, asyncio.run(_write(settings, name, value, replaces, by, "put")), as_json=as_json)


@click.command()
@_NAME
@click.argument("recipe")
@_REPLACES
@BY
@_JSON
@click.pass_obj
def generate(settings: Settings, name: str, recipe: str, replaces: str | None, by: str, as_json: bool) -> None:
    """Have a value made after RECIPE and store it under NAME; it is not shown.

    Recipes: hex:32 and base64url:32 (bytes), alnum:24 and password:24 (characters), uuid4, ed25519, rsa:3072 (bits).
    """
    try:
        value = make(parse_recipe(recipe))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="RECIPE") from None
    _show(name, asyncio.run(_write(settings, name, value, replaces, by, "generate")), as_json=as_json)


async def _write(
    settings: Settings, name: str, value: bytes, replaces: str | None, by: str, action: WriteAction
) -> str | None:
    async with operator_vault(settings, by) as vault:
        try:
            return await vault.write(name, value, replaces=replaces, action=action)
        except ProviderError as error:
            if error.kind is not FailureKind.CONFLICT:
                raise
            failure, found = error, await vault.fetch(vault.entry_of(name).ref)
    hint = _how_to_replace(found, name, replaces)
    raise ProviderError(failure.kind, str(failure), hint=hint or failure.hint)


def _how_to_replace(found: Fetched | ProviderError, name: str, replaces: str | None) -> str:
    """What to write so that what is there is replaced; empty if that cannot be said. The value itself is dropped."""
    if isinstance(found, ProviderError):
        is_gone = found.kind is FailureKind.NOT_FOUND and replaces is not None
        return f"nothing is there now: leave --replaces out to create {name}" if is_gone else ""
    if found.version is None:
        return f"{name} holds a value without a version, and only a known version is replaced: change it in the vault"
    return f"{name} holds version {found.version}: write `--replaces {found.version}` if that one is to be replaced"


def _show(name: str, version: str | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"name": name, "version": version}))
        return
    click.echo(f"{name}: stored" + ("" if version is None else f", version {version}"))
