"""A 1Password provider as the broker wraps it, at a stand-in for the SDK's native library."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from onepassword_fakes import FakeNativeCore, install, make_token, native_error
from provider_conformance import CANARY, failure_of
from vault_workbench import StateNotebook, hardened

from broker_worker.core.errors import ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.resilient import BATCH, ResilientProvider

REFS = [f"op://vault/item-{i}/field" for i in range(3 * BATCH)]
UNAUTHENTICATED = native_error("you are not authenticated")


@dataclass
class Desk:
    """A provider as the broker wraps it, the core that it talks to, its clock and its token."""

    core: FakeNativeCore
    token: str = field(default_factory=make_token)
    timeout: float = 5.0
    states: StateNotebook = field(default_factory=StateNotebook)
    provider: ResilientProvider = field(init=False)

    def __post_init__(self) -> None:
        session = OnePasswordSession(
            lambda: self.token, SdkClient.sign_in, timeout_seconds=self.timeout, monotonic=lambda: self.clock
        )
        self.provider = hardened(OnePasswordProvider(session, self.timeout), self.states)

    @property
    def clock(self) -> float:
        """Seconds; a test turns it."""
        return self.states.now / 1000

    @clock.setter
    def clock(self, seconds: float) -> None:
        self.states.now = int(seconds * 1000)

    async def get(self, *refs: str) -> list[Fetched | ProviderError]:
        return list((await self.provider.get_many(refs)).values())

    async def refused(self) -> ProviderError:
        return await failure_of(self.get(REFS[0]))


@asynccontextmanager
async def open_desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk whose account has a field for each of `REFS`, for the length of a block."""
    core = FakeNativeCore({ref: f"{CANARY} {ref}" for ref in REFS})
    install(monkeypatch, core)
    desk = Desk(core)
    yield desk
    await desk.provider.close()
