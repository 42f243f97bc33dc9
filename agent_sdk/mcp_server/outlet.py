"""The one way out: each JSON-RPC message is searched for every value before its bytes are written.

What tools return is masked where it is made, so that nothing is found here. This is what holds if that fails: a text
in which a value stands is masked, and a message in which one still stands (as a number) is
replaced by an error that repeats nothing of it.
"""

import json
import logging
from types import TracebackType
from typing import Any, Final, Protocol, Self

from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, jsonrpc_message_adapter

from agent_sdk.mcp_server.held_values import HeldValues

WITHHELD: Final = "the answer was withheld: the value of a secret stood in it"
_ENVELOPE: Final = frozenset({"jsonrpc", "id", "method"})
"""Constants of the protocol, and what the client itself chose; a message without them could not be matched."""

_log = logging.getLogger(__name__)


class Outlet:
    """Masks messages.

    Args:
        held: what is searched for.
    """

    def __init__(self, held: HeldValues) -> None:
        self._held = held

    def masked(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message as it may leave: itself, masked, or an error in its place."""
        inner = {key: each for key, each in message.items() if key not in _ENVELOPE}
        fit = self._held.mask_tree(inner)
        if fit is inner:
            return message
        if not isinstance(fit, dict) or self._held.finds_in(fit):
            _log.warning("a message was withheld: a value stood in it")
            return _withheld(message)
        return {key: message[key] for key in message if key in _ENVELOPE} | fit

    def masked_json(self, body: bytes) -> bytes:
        """The same for a serialised message; what is no JSON object is masked as it is."""
        try:
            message = json.loads(body)
        except ValueError:
            return self._held.mask(body)
        if not isinstance(message, dict):
            return self._held.mask(body)
        fit = self.masked(message)
        return body if fit is message else json.dumps(fit, separators=(",", ":")).encode()


class Writes(Protocol):
    """What the MCP package writes messages to."""

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message."""

    async def aclose(self) -> None:
        """Close it."""


class MaskedStream:
    """A transport's write stream behind the outlet.

    Args:
        inner: the transport's own.
        outlet: what each message passes.
    """

    def __init__(self, inner: Writes, outlet: Outlet) -> None:
        self._inner = inner
        self._outlet = outlet

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message, masked if need be."""
        message = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        fit = self._outlet.masked(message)
        if fit is not message:
            item = SessionMessage(jsonrpc_message_adapter.validate_python(fit, by_name=False), item.metadata)
        await self._inner.send(item)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self.aclose()
        return None


def _withheld(message: dict[str, Any]) -> dict[str, Any]:
    """What stands for a message: an error to an answer, a bare notification or request to anything else."""
    if "method" in message:
        return {key: each for key, each in message.items() if key in _ENVELOPE}
    return {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": INTERNAL_ERROR, "message": WITHHELD}}
