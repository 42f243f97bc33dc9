"""`generate_secret` and `store_secret`: values that come into being without a model ever seeing them."""

import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import UNSET, UnsetType

from agent_sdk import outcome
from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import ApprovalPending, InvalidRequest, NotGranted
from agent_sdk.mcp_server.access import NOT_FOUND, REQUEST_SECONDS, approvals_of
from agent_sdk.mcp_server.arguments import GenerateSecret, StoreSecret
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.commands import Commands
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.results import Stored, ToolRefused, refused_names, told
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import MAX_VALUE

COMMAND_SECONDS: Final = 60.0
Write = Callable[..., Awaitable[outcome.Stored]]


class Storing:
    """Stores secrets in the run's name.

    Args:
        client: the run's.
        held: learns each value before it is sent.
        commands: reads files of the server's folder, and runs what may be run.
    """

    def __init__(self, client: AsyncSecretBroker, held: HeldValues, commands: Commands) -> None:
        self._client = client
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
            raise InvalidRequest(f"a value has 1 to {MAX_VALUE} bytes; this one has {len(value)}")
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
        try:
            try:
                stored = await write(timeout=REQUEST_SECONDS, wait_for_approval=False)
            except ApprovalPending as pending:
                stored = await self._approved(write, call, asking, pending)
        except ApprovalPending as pending:
            raise refused_names(pending.refusals, asking.link) from None
        except NotGranted as error:
            refused = told(error)
            if error.code == Code.UNAVAILABLE:
                refused.advice = "it may have been stored or not. Do the same again: a conflict says that it was"
            raise refused from None
        return Stored(stored.name, stored.version or "")

    async def _approved(
        self, write: Write, call: GenerateSecret | StoreSecret, asking: Asking, pending: ApprovalPending
    ) -> outcome.Stored:
        seconds = asking.seconds(call.wait_seconds)
        if not seconds:
            raise pending
        wait = partial(write, timeout=seconds, wait_for_approval=True)
        stored = await asking.meanwhile(wait, approvals_of(pending.refusals), call.purpose, seconds)
        if stored is None:
            raise pending
        return stored


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
