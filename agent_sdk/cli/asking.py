"""What the commands that ask the broker have in common: their options, and the client of this run."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import click

from agent_sdk.client import TIMEOUT_SECONDS, AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.references import SCHEME
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_secret_name

T = TypeVar("T")


def ask(call: Callable[[AsyncSecretBroker], Coroutine[Any, Any, T]]) -> T:
    """Have one thing asked in the name of this run, and wait for it.

    Raises:
        CredentialMissing: if the run was handed no credential.
        CredentialInvalid: if it cannot be used.
        NotGranted: if it was refused.
    """
    credential = RunCredential.load()

    async def asked() -> T:
        async with AsyncSecretBroker(credential) as client:
            return await call(client)

    return asyncio.run(asked())


def ask_for(*names: str, purpose: str, timeout: float) -> Mapping[str, Secret]:
    """Ask for the values of names, all or none.

    Args:
        names: the secrets.
        purpose: what they are for.
        timeout: seconds.

    Raises:
        NotGranted: if one of them is refused.
    """
    return ask(lambda client: client.get_many(names, purpose=purpose, timeout=timeout))


def checked_name(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """A secret's name, or a reference to it (click's callback); an option may be left out."""
    if text is None:
        return None
    try:
        return check_secret_name(text.removeprefix(SCHEME))
    except WireError as error:
        raise click.BadParameter(str(error)) from None


NAME = click.argument("name", callback=checked_name)
PURPOSE = click.option(
    "--purpose", metavar="TEXT", default="", help="What for: goes to the audit, and to who approves."
)
TIMEOUT = click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds to wait for the answer, and for people who have to approve.",
)
REPLACES = click.option("--replaces", metavar="V", help="Replace this version; without it the name is created.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
FORCE = click.option("--force", is_flag=True, help="Replace a file that others can read; print to a terminal.")
