"""Standard input and output of a command, which may have been started without (`>&-`): Python has None for them."""

import sys
from typing import TextIO

import click

from agent_sdk.wire.errors import SecretBrokerError
from agent_sdk.wire.messages import MAX_VALUE


class ClosedStreamError(SecretBrokerError):
    """A command was started without the stream that it reads from or writes to.

    Args:
        message: which one.
        hint: what to do.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def standard_input() -> TextIO:
    """Where a command reads from.

    Raises:
        ClosedStreamError: if it was started without.
    """
    if sys.stdin is None:
        raise ClosedStreamError("standard input is closed, so there is nothing to read", "pipe it in, or name a file")
    return sys.stdin


def standard_output() -> TextIO:
    """Where a command writes to; to be asked for before anything is released.

    Raises:
        ClosedStreamError: if it was started without.
    """
    if sys.stdout is None:
        raise ClosedStreamError(
            "standard output is closed, so nobody would get what is written there", "leave it open, or name a file"
        )
    return sys.stdout


def read_value(*, raw: bool) -> bytes:
    """A value from a prompt without echo, or from what is piped in.

    Args:
        raw: whether to keep one line feed at the end of what is piped in.

    Raises:
        ClosedStreamError: if there is no standard input.
    """
    stream = standard_input()
    if stream.isatty():
        return str(click.prompt("Value", hide_input=True, err=True)).encode("utf-8", "surrogateescape")
    value = stream.buffer.read(MAX_VALUE + 3)
    if not raw and value.endswith(b"\n"):
        value = value[:-1].removesuffix(b"\r")
    return value
