"""`secret-agent list`: what this run may ask for."""

import json
from collections.abc import Sequence
from typing import get_args

import click

from agent_sdk.cli.asking import JSON, TIMEOUT, ask
from agent_sdk.wire.messages import Way

_EVERY_WAY: tuple[Way, ...] = get_args(Way)


@click.command("list")
@TIMEOUT
@JSON
def list_names(timeout: float, as_json: bool) -> None:
    """List the names that this run may ask for, one a line; no value is released.

    A name that the policy lets reach the work in some ways only has them behind a tab: `value` (get), `env` and `file`
    (run), `proxy` (used through the egress proxy, and never given to this run).
    """
    names = ask(lambda client: client.list_ways(timeout=timeout))
    if as_json:
        click.echo(json.dumps({"names": list(names), "ways": names}))
        return
    for name, ways in names.items():
        click.echo(name if set(ways) in (set(), set(_EVERY_WAY)) else f"{name}\t{_left(ways)}")


def _left(ways: Sequence[Way]) -> str:
    return f"{ways[0]} only" if len(ways) == 1 else ", ".join(ways)
