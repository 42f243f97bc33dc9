"""Vault against the contract of all providers, over a fake server."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from hashicorp_server import FakeVault, serving
from hashicorp_workbench import make_vault
from provider_conformance import CANARY, MAX_VALUE, ProviderConformance, Subject

PATHS, FIELDS = 10, 50


class TestVault(ProviderConformance):
    """KV version 2, asked with a token."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        """A provider over ten secrets of fifty fields each."""
        vault = FakeVault()
        for number in range(PATHS):
            vault.put(f"secret/app/{number}", **{f"f{i}": f"{CANARY}-{number}-{i}" for i in range(FIELDS)})
        vault.put("secret/sizes", largest="x" * MAX_VALUE, too_large="é" * MAX_VALUE)
        with ExitStack() as stack:
            url = stack.enter_context(serving(vault))
            provider = make_vault(url, {"VAULT_TOKEN": "root-token"}, lambda: vault.clock)
            yield Subject(
                provider,
                {
                    f"vault://secret/app/{number}#f{i}": f"{CANARY}-{number}-{i}".encode()
                    for number in range(PATHS)
                    for i in range(FIELDS)
                },
                unknown="vault://secret/nothing#here",
                malformed=(
                    "vault://",
                    "vault://secret#field",
                    "vault://secret/app",
                    "vault://secret/../sys#x",
                    "vault://auth/token/lookup-self#id",
                    "vault://secret/app?version=0#x",
                    "local://a",
                    "x",
                ),
                largest="vault://secret/sizes#largest",
                too_large="vault://secret/sizes#too_large",
                writable="vault://secret/app/0#f0",
                creatable="vault://secret/made/here#field",
                break_vault=stack.close,
            )
            await provider.close()
