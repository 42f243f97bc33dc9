"""The three providers against the one contract. 1Password is the SDK's own Python over a stand-in for its core."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from desk_workbench import ShiftedClock
from onepassword_fakes import FakeNativeCore, install, make_token, native_error
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.core.budget import Budget
from broker_worker.providers.env import EnvProvider
from broker_worker.providers.governor import Governor
from broker_worker.providers.local import LocalProvider
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.resilient import resilient
from broker_worker.providers.vault_format import KeyParameters, VaultContent, VaultEntry, seal_content
from broker_worker.state.vault_states import VaultStates

COUNT = 500
_KEY = bytes(range(32))


def local_subject(folder: Path) -> Subject:
    """A provider over a local vault with 502 entries."""
    values = {f"local://entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)}
    stored = {**values, "local://largest": b"x" * MAX_VALUE, "local://binary": BINARY}
    parameters = KeyParameters.of_key_file()
    entries = {ref.removeprefix("local://"): VaultEntry(value, 1, 0) for ref, value in stored.items()}
    path = folder / "local.vault"
    path.touch(0o600)
    path.write_bytes(seal_content(VaultContent(entries), parameters, parameters.derive(_KEY)))
    keys = VaultKeys(lambda: _KEY, lambda: None)

    def break_vault() -> None:
        path.write_bytes(path.read_bytes()[:-1])

    return Subject(
        LocalProvider(LocalVault(path, keys), keys.forget, lambda: 5),
        values,
        unknown="local://nothing.here",
        malformed=("local://", "local://Upper", "local://a b", "local://../x", "env://ENTRY", "entry-1"),
        largest="local://largest",
        binary="local://binary",
        writable="local://entry-0",
        creatable="local://made.here",
        break_vault=break_vault,
    )


class TestLocal(ProviderConformance):
    """The local vault, opened by a key file."""

    @pytest.fixture
    async def subject(self, tmp_path: Path) -> AsyncIterator[Subject]:
        """As it is by itself."""
        made = local_subject(tmp_path)
        yield made
        await made.provider.close()


class TestWrapped(ProviderConformance):
    """A provider as the broker wraps it, here the local vault's, with a budget: the wrapper keeps to the same."""

    @pytest.fixture
    async def subject(self, tmp_path: Path) -> AsyncIterator[Subject]:
        """On state files in a folder."""
        made = local_subject(tmp_path)
        governor = Governor("local", VaultStates(tmp_path / "state" / "vaults", ShiftedClock()), Budget(100_000))
        wrapped = resilient(made.provider, governor)
        yield replace(made, provider=wrapped)
        await wrapped.close()


class TestEnv(ProviderConformance):
    """Environment variables."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        """A provider over an environment with 503 variables."""
        values = {f"env://ENTRY_{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)}
        environ = {ref.removeprefix("env://"): value.decode() for ref, value in values.items()}
        environ |= {"LARGEST": "x" * MAX_VALUE, "TOO_LARGE": "x" * (MAX_VALUE + 1), "BINARY": "b"}
        if os.name == "posix":
            environ["BINARY"] = os.fsdecode(BINARY)
        provider = EnvProvider(environ)
        yield Subject(
            provider,
            values,
            unknown="env://NOTHING_HERE",
            malformed=("env://", "env://lower", "env://A B", "env://A=B", "env://1A", "local://a", "PATH"),
            largest="env://LARGEST",
            too_large="env://TOO_LARGE",
            binary="env://BINARY" if os.name == "posix" else None,
        )
        await provider.close()


class TestOnePassword(ProviderConformance):
    """1Password: the SDK's Python layer over a stand-in for its native core."""

    @pytest.fixture
    async def subject(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
        """A provider whose account has 502 fields; versions are asked for."""
        values = {f"op://vault/item-{i}/field": f"{CANARY}-{i}" for i in range(COUNT)}
        core = FakeNativeCore({})
        for number, value in enumerate(values.values()):
            core.items.add("vault", f"item-{number}", {"field": value})
        core.values |= {"op://vault/large/field": "x" * MAX_VALUE, "op://vault/larger/field": "x" * (MAX_VALUE + 1)}
        install(monkeypatch, core)

        def break_vault() -> None:
            core.sign_in_failure = native_error(f"authentication error: you are not authenticated {CANARY}")

        session = OnePasswordSession(make_token, SdkClient.sign_in, timeout_seconds=10)
        provider = OnePasswordProvider(session, timeout_seconds=10, versions=True)
        yield Subject(
            provider,
            {ref: value.encode() for ref, value in values.items()},
            unknown="op://vault/nothing/field",
            malformed=("op://", "op://vault/item", "op://a/b/c/d/e", "op://a//c", "op://a/b/c\x00", "local://a", "x"),
            largest="op://vault/large/field",
            too_large="op://vault/larger/field",
            writable="op://vault/item-0/field",
            creatable="op://vault/made here/credential",
            break_vault=break_vault,
        )
        await provider.close()
