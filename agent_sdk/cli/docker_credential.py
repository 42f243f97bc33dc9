"""`docker-credential-secret-agent`: a credential helper for Docker, found by its name."""

import os

import click

from agent_sdk.cli.asking import ask_for
from agent_sdk.cli.root import fail
from agent_sdk.cli.standard_streams import standard_input, standard_output
from agent_sdk.conventions.docker import (
    MAX_SERVER,
    NOT_FOUND,
    REGISTRIES_VARIABLE,
    credential,
    listing,
    parse_registries,
    registry_of,
)

_SECONDS = 30.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("operation", type=click.Choice(["get", "store", "erase", "list"]))
def docker_credential(operation: str) -> None:
    """Answer Docker's question for a registry's credential.

    The variable SECRET_AGENT_DOCKER says which secret is for which registry: `ghcr.io=USER:github.packages_token`,
    several separated by spaces. In Docker's config.json: `"credHelpers": {"ghcr.io": "secret-agent"}`.
    """
    try:
        code = _answer(operation)
    except Exception as error:  # noqa: BLE001  # the last line of defence: no traceback, which may hold a value
        fail(error)
    raise click.exceptions.Exit(code)


def _answer(operation: str) -> int:
    registries = parse_registries(os.environ.get(REGISTRIES_VARIABLE, ""))
    if operation == "list":
        click.echo(listing(registries))
    elif operation == "get":
        server = standard_input().buffer.read(MAX_SERVER + 1).decode("utf-8", "surrogateescape")
        standard_output()
        registry = registry_of(server, registries)
        if registry is None:
            click.echo(NOT_FOUND)
            return 1
        secret = ask_for(registry.secret, purpose=f"docker {registry.host}", timeout=_SECONDS)[registry.secret]
        click.echo(credential(server, registry, secret))
    elif operation == "store":
        click.echo("error: credentials are kept by the broker: `secret-agent put` stores them", err=True)
        return 1
    return 0


def main() -> None:
    """The program that Docker starts."""
    docker_credential(prog_name="docker-credential-secret-agent")
