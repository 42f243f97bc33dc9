"""`generate_secret` and `store_secret`: values that come into being without a model ever seeing them."""

import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import UNSET, UnsetType

from agent_sdk.errors import ApprovalPending, InvalidRequest, NotGranted
from agent_sdk.mcp_server.access import NOT_FOUND, REQUEST_SECONDS, Access, approvals_of
from agent_sdk.mcp_server.arguments import GenerateSecret, StoreSecret
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.commands import Commands
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.results import Stored, ToolRefused, refused_names, told
from agent_sdk.outcome import Stored as Written
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import MAX_VALUE

COMMAND_SECONDS: Final = 60.0
Write = Callable[..., Awaitable[Written]]


class Storing:
    """Stores secrets in the run's name.

    Args:
        access: the run's.
        held: learns each value before it is sent.
        commands: reads files of the server's folder, and runs what may be run.
    """

    def __init__(self, access: Access, held: HeldValues, commands: Commands) -> None:
        self._client = access.client
        self._decisions = access.decisions
        self._held = held
        self._commands = commands

    async def generate(self, call: GenerateSecret, asking: Asking) -> Stored:
        """Have the broker make a value; it does not come here.

        Raises:
            ToolRefused: if the broker did not.
            RefusedNames: if people have to approve it first.
            InputNeeded: if the client has to be asked by the call's result.
        """
        write = partial(
            self._client.generate,
            call.name,
            call.recipe,
            purpose=call.purpose,
            replaces=_or_none(call.replaces),
            reveal=False,
        )
        return await self._written(write, call, asking)

    async def store(self, call: StoreSecret, asking: Asking) -> Stored:
        """Store what a file holds or a command prints, without the line break at its end.

        Raises:
            ToolRefused: if the broker did not.
            RefusedNames: if people have to approve it first.
            InputNeeded: if the client has to be asked by the call's result.
        """
        value = await self._value(call)
        value = value.removesuffix(b"\n").removesuffix(b"\r")
        if not 1 <= len(value) <= MAX_VALUE:
            size = f"more than {MAX_VALUE}" if len(value) > MAX_VALUE else len(value)  # of a file no more is read
            raise InvalidRequest(f"a value has 1 to {MAX_VALUE} bytes; this one has {size}")
        if not self._held.add(call.name, value):
            raise ToolRefused(Code.DENIED, "this value could not be found in an output", NOT_FOUND)
        write = partial(self._client.put, call.name, value, purpose=call.purpose, replaces=_or_none(call.replaces))
        return await self._written(write, call, asking)

    async def _value(self, call: StoreSecret) -> bytes:
        if call.from_file is not UNSET and call.from_command is UNSET:
            return _contents(self._commands.place(call.from_file))
        if call.from_command is not UNSET and call.from_file is UNSET:
            return await self._commands.output_of(call.from_command, COMMAND_SECONDS)
        raise InvalidRequest("say where the value is: either from_file or from_command")

    async def _written(self, write: Write, call: GenerateSecret | StoreSecret, asking: Asking) -> Stored:
        outcome = await self._once(write)
        seconds = asking.seconds(call.wait_seconds)
        if isinstance(outcome, ApprovalPending) and seconds:
            last: Written | ApprovalPending = outcome
            work = partial(self._decisions.ask_until, partial(self._once, write), _waiting, last, seconds)
            outcome = await asking.meanwhile(work, _waiting(outcome), call.purpose, seconds) or outcome
        if isinstance(outcome, ApprovalPending):
            raise refused_names(outcome.refusals, asking.link)
        return Stored(outcome.name, outcome.version or "")

    async def _once(self, write: Write) -> Written | ApprovalPending:
        try:
            return await write(timeout=REQUEST_SECONDS, wait_for_approval=False)
        except ApprovalPending as pending:
            return pending
        except NotGranted as error:
            refused = told(error)
            if error.code == Code.UNAVAILABLE:
                refused.advice = "it may have been stored or not. Do the same again: a conflict says that it was"
            raise refused from None


def _waiting(outcome: Written | ApprovalPending) -> list[str]:
    """The approvals that a write waits for."""
    return approvals_of(outcome.refusals) if isinstance(outcome, ApprovalPending) else []


def _or_none(version: str | UnsetType) -> str | None:
    return None if version is UNSET else version


def _contents(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise InvalidRequest(f"the file cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest("from_file must name a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_VALUE + 2)
    finally:
        os.close(descriptor)
