"""What the commands that ask the broker share: their options, and a client that ends with them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from agent_sdk.blocking import SecretBroker
from agent_sdk.secret import Secret

Command = TypeVar("Command", bound=Callable[..., Any])


def purpose_option(default: str) -> Callable[[Command], Command]:
    """`--purpose`, with what the command is for where nothing is given."""
    return click.option("--purpose", default=default, show_default=True, help="What it is for; the audit says so.")


def timeout_option(function: Command) -> Command:
    """`--timeout`, people who have to approve included."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=15.0,
        show_default=True,
        help="Seconds that it may take, people who have to approve included.",
    )(function)


def ask(*names: str, purpose: str, timeout: float) -> Mapping[str, Secret]:
    """Ask for the values of names, once and all or none.

    Args:
        names: the secrets.
        purpose: what they are for.
        timeout: seconds.

    Raises:
        NotGranted: if one of them is refused.
    """
    with SecretBroker(timeout=timeout) as broker:
        return broker.get_many(names, purpose=purpose)
