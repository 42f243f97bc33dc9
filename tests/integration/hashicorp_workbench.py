"""A Vault provider as an operator's section makes it, at a fake server, and what tests of it need."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hashicorp_server import Asked, FakeVault, Said, serving
from provider_conformance import CANARY

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ProviderError
from broker_worker.core.policy import Origin
from broker_worker.ports import Fetched
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers
from broker_worker.providers.vault.provider import VaultProvider

NOWHERE = Path("/nowhere")
REF = "vault://secret/app/db#password"
USERNAME, PASSWORD = "vault://database/creds/reader#username", "vault://database/creds/reader#password"


def make_vault(
    url: str, environ: Mapping[str, str], clock: Callable[[], float], **options: str | int | bool
) -> VaultProvider:
    """A provider of a section with these options, in this environment, whose time is `clock`."""
    around = Surroundings(NOWHERE, NOWHERE, lambda _: bytes(32), environ, lambda: 7, clock)
    section = ProviderSettings("vault", {"url": url, **options}, Origin("broker.yaml", 4))
    return cast("VaultProvider", make_providers([section], around)["vault"])


def under_way(coroutine: str) -> list[asyncio.Task[object]]:
    """The provider's tasks of that name which have not ended."""
    return [task for task in asyncio.all_tasks() if f".{coroutine} " in str(task.get_coro())]


def held(gate: threading.Event) -> None:
    """Hold up a request until a test lets it go on; it is served then."""
    gate.wait(45)


@dataclass
class Desk:
    """A provider and the fake that it talks to."""

    vault: FakeVault
    url: str
    provider: VaultProvider = field(init=False)

    def __post_init__(self) -> None:
        self.provider = self.another()

    def another(self, **options: Any) -> VaultProvider:
        return make_vault(self.url, {"VAULT_TOKEN": "root-token"}, lambda: self.vault.clock, **options)

    async def get(self, *refs: str) -> list[Fetched | ProviderError]:
        return list((await self.provider.get_many(refs)).values())

    async def value(self, ref: str) -> str:
        (answer,) = await self.get(ref)
        assert isinstance(answer, Fetched), answer
        return answer.value.decode()

    async def error(self, ref: str = REF) -> ProviderError:
        (answer,) = await self.get(ref)
        assert isinstance(answer, ProviderError)
        return answer

    def break_at(self, beginning: str, said: Callable[[Asked], Said | None]) -> None:
        """Have requests from a path on answered otherwise."""
        self.vault.fault = lambda asked: said(asked) if asked.path.startswith(beginning) else None


def make_server() -> FakeVault:
    """A server with one secret of two fields."""
    made = FakeVault()
    made.put("secret/app/db", user="reader", password=f"{CANARY}-1")
    return made


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet, at a server that runs for the length of a block."""
    vault = make_server()
    with serving(vault) as url:
        desk = Desk(vault, url)
        yield desk
        await desk.provider.close()
