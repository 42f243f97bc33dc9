"""Where a command takes a value from: a prompt or a pipe, never its arguments."""

import sys

import click

from agent_sdk.wire.messages import MAX_VALUE


def read_value(*, raw: bool) -> bytes:
    """A value from a prompt without echo, or from what is piped in.

    Args:
        raw: whether to keep one line feed at the end of what is piped in.
    """
    if sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True, err=True)).encode("utf-8", "surrogateescape")
    value = sys.stdin.buffer.read(MAX_VALUE + 3)
    if not raw and value.endswith(b"\n"):
        value = value[:-1].removesuffix(b"\r")
    return value
