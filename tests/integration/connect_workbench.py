"""A Connect provider at a server that a test can put faults into."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from connect_server import TOKEN, ConnectServer, Fault, Vault
from provider_conformance import CANARY, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.connect import ConnectProvider
from broker_worker.providers.connect_api import ConnectApi

REF = "connect://Agents/api/key"
"""The field that every desk's vault has; its value is `CANARY`."""


def provider_of(address: str, timeout: float = 5.0, **more: Any) -> ConnectProvider:
    """A provider of a server, with the token that the test server takes."""
    return ConnectProvider(ConnectApi(address, lambda: TOKEN, timeout_seconds=timeout, **more), timeout)


class Desk:
    """A provider, the server that it talks to, and the server's one vault with one item."""

    def __init__(self, server: ConnectServer, vault: Vault) -> None:
        self.server = server
        self.vault = vault
        self.item = vault.add("api", {"key": CANARY, "other": "o"})
        self.provider = provider_of(server.address)

    async def get(self, *refs: str) -> list[Fetched | ProviderError]:
        """The answers in order."""
        answers = await self.provider.get_many(refs)
        return [answers[ref] for ref in refs]

    async def kind(self, ref: str) -> FailureKind | None:
        """Why a reference has no value; None if it has."""
        (found,) = await self.get(ref)
        return found.kind if isinstance(found, ProviderError) else None

    async def refused(self, fault: Fault, *, of: str = "/items/") -> ProviderError:
        """Why the server as a whole cannot serve while it answers requests whose path has `of` with a fault."""
        self.server.fault = lambda request: fault(request) if of in request.url.path else None
        return await failure_of(self.get(REF))


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    """A desk whose server runs, for the length of a block."""
    vault = Vault("Agents")
    server = ConnectServer(vault)
    async with server.running():
        desk = Desk(server, vault)
        yield desk
        await desk.provider.close()
