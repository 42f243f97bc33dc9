"""The local provider's own behaviour: threads, deadlines, and faults of the vault as typed errors."""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.ports import Fetched
from broker_worker.providers.local import LocalProvider
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.vault_format import KeyParameters, VaultEntry


class FaultyVault(LocalVault):
    """A vault whose every access raises, or waits for an event."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(Path("/nowhere/local.vault"), VaultKeys(bytes, lambda: None))
        self.error = error
        self.release = threading.Event()
        self.threads: list[int] = []

    def read(self, names: Iterable[str]) -> dict[str, VaultEntry]:
        self.threads.append(threading.get_ident())
        if self.error is not None:
            raise self.error
        self.release.wait(45)
        return {}


def provider_over(vault: LocalVault, timeout: float = 10) -> LocalProvider:
    return LocalProvider(vault, lambda: None, lambda: 42, timeout)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (SetupError("vault /x has mode 0644", hint="chmod 600 '/x'"), FailureKind.UNREACHABLE),
        (ProviderError(FailureKind.UNAUTHENTICATED, "wrong key", hint="right key"), FailureKind.UNAUTHENTICATED),
        (OSError(5, "Input/output error"), FailureKind.UNREACHABLE),
    ],
)
async def test_faults_of_the_vault_become_typed_errors(fault: Exception, kind: FailureKind) -> None:
    """Unsafe modes, a wrong key and a failing disk all reach the caller as `ProviderError` with a hint."""
    with pytest.raises(ProviderError) as caught:
        await provider_over(FaultyVault(fault)).get_many(["local://a"])
    assert caught.value.kind is kind
    assert caught.value.hint


async def test_hanging_vault_ends_at_the_deadline() -> None:
    """A vault on a file system that hangs costs a TIMEOUT, not the caller."""
    vault = FaultyVault()
    try:
        with pytest.raises(ProviderError) as caught:
            await provider_over(vault, 0.05).get_many(["local://a"])
        assert caught.value.kind is FailureKind.TIMEOUT
    finally:
        vault.release.set()


async def test_vault_is_read_off_the_loops_thread() -> None:
    """Neither file access nor key derivation run on the event loop's thread."""
    vault = FaultyVault()
    vault.release.set()
    await provider_over(vault).get_many(["local://a"])
    assert vault.threads
    assert threading.get_ident() not in vault.threads


async def test_malformed_references_do_not_touch_the_vault() -> None:
    """A call with nothing to look up does not even open the file."""
    vault = FaultyVault(OSError("must not happen"))
    assert await provider_over(vault).get_many([]) == {}
    (answer,) = (await provider_over(vault).get_many(["local://NO"])).values()
    assert isinstance(answer, ProviderError)
    assert vault.threads == []


async def test_change_by_the_command_line_is_served_next(tmp_path: Path) -> None:
    """What `vault set` writes while a worker runs is what the worker fetches next."""
    path = tmp_path / "local.vault"
    outside = LocalVault(path, VaultKeys(lambda: bytes(32), lambda: None))
    outside.create(KeyParameters.of_key_file())
    outside.set("a", b"old", 0)
    provider = provider_over(LocalVault(path, VaultKeys(lambda: bytes(32), lambda: None)))
    assert await provider.get_many(["local://a"]) == {"local://a": Fetched(b"old", "1")}
    outside.set("a", b"new", 0)
    assert await provider.get_many(["local://a"]) == {"local://a": Fetched(b"new", "2")}


async def test_put_records_the_time_and_refuses_bad_references(tmp_path: Path) -> None:
    """`put` stamps entries with the clock that it was given, and checks its reference."""
    vault = LocalVault(tmp_path / "local.vault", VaultKeys(lambda: bytes(32), lambda: None))
    vault.create(KeyParameters.of_key_file())
    provider = provider_over(vault)
    assert await provider.put("local://a", b"x") == "1"
    assert vault.describe() == {"a": (1, 42)}
    for ref, value, kind in (
        ("env://A", b"x", FailureKind.BAD_REFERENCE),
        ("local://a", b"x" * (128 * 1024 + 1), FailureKind.TOO_LARGE),
    ):
        with pytest.raises(ProviderError) as caught:
            await provider.put(ref, value)
        assert caught.value.kind is kind


async def test_puts_at_once_all_arrive(tmp_path: Path) -> None:
    """Ten puts of one name at once get ten versions."""
    vault = LocalVault(tmp_path / "local.vault", VaultKeys(lambda: bytes(32), lambda: None))
    vault.create(KeyParameters.of_key_file())
    provider = provider_over(vault)
    versions = await asyncio.gather(*(provider.put("local://a", b"x") for _ in range(10)))
    assert sorted(map(str, versions), key=int) == [str(n) for n in range(1, 11)]


async def test_closing_forgets_the_key(tmp_path: Path) -> None:
    """After `close` the derived key is dropped and nothing is served."""
    keys = VaultKeys(lambda: b"k" * 32, lambda: None)
    vault = LocalVault(tmp_path / "local.vault", keys)
    vault.create(KeyParameters.of_key_file())
    provider = LocalProvider(vault, keys.forget, lambda: 0)
    assert (await provider.health()).ok
    await provider.close()
    assert keys._derived == {}
    assert not (await provider.health()).ok


async def test_entries_that_nobody_needs_are_told(tmp_path: Path) -> None:
    """By name, never with a value; whether the file can be written is the disk's to say."""
    vault = LocalVault(tmp_path / "local.vault", VaultKeys(lambda: bytes(32), lambda: None))
    vault.create(KeyParameters.of_key_file())
    for name in ("needed", "left.over"):
        vault.set(name, b"canary", 1)
    scope = await provider_over(vault).visible(["local://needed"], ())
    assert scope is not None
    assert (scope.noun, scope.beyond) == ("entries", ("left.over",))
    assert "canary" not in repr(scope)
