"""A Vault where AppRole is set up, and providers that log in to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from desk_workbench import until
from hashicorp_server import FakeVault, serving
from hashicorp_workbench import make_vault, under_way
from provider_conformance import CANARY, failure_of

from broker_worker.core.errors import ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.vault.provider import VaultProvider

REF = "vault://secret/app#key"
APPROLE: dict[str, Any] = {"auth": "approle", "role_id": "role-1"}


class Site:
    """A server, and providers that log in to it."""

    def __init__(self, vault: FakeVault, url: str) -> None:
        self.vault, self.url = vault, url
        self.providers: list[VaultProvider] = []

    def provider(self, environ: dict[str, str] | None = None, **options: Any) -> VaultProvider:
        found = {"VAULT_SECRET_ID": "secret-1"} if environ is None else environ
        made = make_vault(self.url, found, lambda: self.vault.clock, **options)
        self.providers.append(made)
        return made

    def logins(self) -> int:
        return len([path for path in self.vault.paths("auth/") if path.endswith("/login")])


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    """A server with a secret that runs for the length of a block, with providers that are closed in the end."""
    vault = FakeVault()
    vault.put("secret/app", key=CANARY)
    vault.logins["approle"] = {"role_id": "role-1", "secret_id": "secret-1"}
    with serving(vault) as url:
        made = Site(vault, url)
        yield made
        for provider in made.providers:
            await provider.close()


async def served(provider: VaultProvider) -> bool:
    """Whether the secret comes out."""
    (answer,) = (await provider.get_many([REF])).values()
    return isinstance(answer, Fetched)


async def renewed() -> None:
    """Wait for the end of a renewal that is under way."""
    await until(lambda: not under_way("_renew"))


async def refused(provider: VaultProvider) -> ProviderError:
    return await failure_of(provider.get_many([REF]))
