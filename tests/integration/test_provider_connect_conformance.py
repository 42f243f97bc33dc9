"""Connect against the one contract: both sides over HTTP, and both held against the API's description."""

from collections.abc import AsyncIterator

import pytest
from connect_server import TOKEN, ConnectServer, Vault
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.providers.connect import ConnectProvider
from broker_worker.providers.connect_api import ConnectApi

COUNT = 500


class TestConnect(ProviderConformance):
    """1Password Connect: a server on the loopback interface; both sides are held against the API's description."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        """A provider whose server has a vault of 25 items with 20 fields each, and some of other sizes."""
        vault = Vault("Agents")
        values: dict[str, bytes] = {}
        for number in range(COUNT // 20):
            fields = {f"field-{i}": f"{CANARY}-{number}-{i}" for i in range(20)}
            vault.add(f"item {number}", fields)
            values |= {f"connect://Agents/item {number}/{label}": v.encode() for label, v in fields.items()}
        sizes = vault.add("sizes", {"largest": "x" * MAX_VALUE, "larger": "x" * (MAX_VALUE + 1)})
        server = ConnectServer(vault)
        server.attach(sizes, "binary.der", BINARY)
        async with server.running():
            api = ConnectApi(server.address, lambda: TOKEN, timeout_seconds=10)
            provider = ConnectProvider(api, timeout_seconds=10)
            yield Subject(
                provider,
                values,
                unknown="connect://Agents/nothing/field",
                malformed=(
                    "connect://",
                    "connect://a/b",
                    "connect://a/b/c/d/e",
                    "connect://a//c",
                    "connect://a/../c",
                    "connect://a/b/c?attribute=otp",
                    'connect://a/b" or title eq "x/c',
                    "op://a/b/c",
                    "x",
                ),
                largest="connect://Agents/sizes/largest",
                too_large="connect://Agents/sizes/larger",
                binary="connect://Agents/sizes/binary.der",
                writable="connect://Agents/item 0/field-0",
                creatable="connect://Agents/made here/credential",
                break_vault=server.stop,
            )
            await provider.close()
