"""`secret-agent generate`: have the broker make a value and store it; nobody sees it."""

import click

from agent_sdk.cli.asking import JSON, NAME, PURPOSE, REPLACES, TIMEOUT, ask
from agent_sdk.cli.stored import show_stored


@click.command()
@NAME
@click.argument("recipe")
@REPLACES
@PURPOSE
@TIMEOUT
@JSON
def generate(name: str, recipe: str, replaces: str | None, purpose: str, timeout: float, as_json: bool) -> None:
    """Have the broker make a value after RECIPE and store it under NAME; it is not shown.

    Recipes: hex:32 and base64url:32 (bytes), alnum:24 and password:24 (characters), uuid4, ed25519, rsa:3072 (bits).
    Needs `generate` in the policy.
    """
    show_stored(
        ask(lambda client: client.generate(name, recipe, purpose=purpose, replaces=replaces, timeout=timeout)),
        as_json=as_json,
    )
