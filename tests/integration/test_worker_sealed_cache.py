"""A worker whose values survive its restarts: real clients, a real server, the audit on disk, and a broken file."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from broker_home import Home, Processes, server_of
from click.testing import CliRunner
from desk_workbench import SECRETS, until
from fake_vault import FakeVault
from sealed_workbench import QUICK

from agent_sdk.errors import Revoked, Unavailable
from broker_worker.app.compose import Process
from broker_worker.cache.sealed.passphrase import PassphraseWrapping
from broker_worker.cli import main
from broker_worker.core.errors import FailureKind, ProviderError

SEALED = "cache: {sealed: true, master_key: passphrase}"
BROKER = f"provider: {{type: local}}\n{SEALED}\n"
NAME, VALUE = "openai.api_key", "value of openai"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """What wraps the key, derived quickly."""
    monkeypatch.setenv("SECRET_BROKER_CACHE_PASSPHRASE", "correct horse battery staple")
    monkeypatch.setattr(PassphraseWrapping, "cost", QUICK)


@pytest.fixture
def sealed_home(home: Home) -> Home:
    """An installation with a sealed cache."""
    home.write(broker=BROKER)
    return home


async def end(process: Process) -> None:
    """What `serve` does in the end."""
    process.desk.close()
    assert process.write_behind is not None
    await asyncio.to_thread(process.write_behind.close)


async def ask(home: Home, vault: FakeVault | None = None, name: str = NAME) -> tuple[str, str | None]:
    """Start a worker, ask it once, and end it; the value and where it came from."""
    async with home.working(vault) as process, home.client() as claude:
        secret = await claude.get(name)
        await end(process)
    return secret.reveal(), secret.source


def away() -> FakeVault:
    """A vault that does not answer."""
    vault = FakeVault()
    vault.failure = ProviderError(FailureKind.UNREACHABLE, "away")
    return vault


async def command(home: Home, *words: str, **options: Any) -> None:
    """Run a command of the operator's, which has a loop of its own."""
    arguments = ["--home", str(home.settings.home), *words]
    done = await asyncio.to_thread(CliRunner().invoke, main, arguments, **options)
    assert done.exit_code == 0, done.output


def values_in_files(home: Home) -> list[Path]:
    """The files of an installation that hold the value."""
    files = [path for path in home.settings.home.rglob("*") if path.is_file()]
    assert home.settings.sealed_cache_file in files
    return [path for path in files if VALUE.encode() in path.read_bytes()]


async def test_value_survives_a_restart(sealed_home: Home) -> None:
    """While its vault is away; the audit says `cache` as for any other hit, and no file holds the value."""
    assert await ask(sealed_home) == (VALUE, "provider")
    assert await ask(sealed_home, away()) == (VALUE, "cache")
    assert [record.source for record in sealed_home.records("access")] == ["provider", "cache"]
    assert values_in_files(sealed_home) == []
    sealed_home.check_audit()


async def test_value_ends_when_it_would_have_without_the_restart(sealed_home: Home) -> None:
    """Five minutes after it was fetched."""
    await ask(sealed_home)
    sealed_home.clock.shift += 299_000
    assert await ask(sealed_home, away()) == (VALUE, "cache")
    sealed_home.clock.shift += 2_000
    assert await ask(sealed_home) == (VALUE, "provider")


async def test_entry_that_allows_old_values_has_them_after_a_restart(sealed_home: Home) -> None:
    """While its vault is away, said as `stale`, and no longer than the entry allows; as without a restart."""
    registry = SECRETS.replace('"local://openai"', '{ref: "local://openai", max_stale: 10m}')
    sealed_home.write(broker=BROKER, registry=registry)
    await ask(sealed_home)
    sealed_home.clock.shift += 310_000
    assert await ask(sealed_home, away()) == (VALUE, "stale")
    sealed_home.clock.shift += 600_000
    with pytest.raises(Unavailable):
        await ask(sealed_home, away())


async def test_without_the_switch_nothing_survives(home: Home) -> None:
    """And no file is made."""
    async with home.working() as process, home.client() as claude:
        assert (await claude.get(NAME)).source == "provider"
        assert process.write_behind is None
    assert not home.settings.sealed_cache_file.exists()


@pytest.mark.parametrize(
    "files",
    [
        {"broker": f"providers: [{{type: local}}, {{type: env}}]\n{SEALED}\n"},
        {"broker": BROKER, "registry": SECRETS.replace("local://openai", "local://anthropic")},
        {"broker": BROKER.replace("sealed:", "default_ttl_seconds: 1, sealed:")},
    ],
    ids=["providers", "reference", "ttl"],
)
async def test_changed_files_hold_over_a_restart(sealed_home: Home, files: dict[str, str]) -> None:
    """A value is not served that was fetched from other providers, for another reference, or too long ago by now."""
    await ask(sealed_home)
    sealed_home.write(**files)
    sealed_home.clock.shift += 2_000
    value, source = await ask(sealed_home)
    assert source == "provider"
    assert value == ("value of anthropic" if "registry" in files else VALUE)


async def test_changed_providers_hold_while_a_worker_runs(sealed_home: Home) -> None:
    """What it fetched before the reload is not served by the next one, and what it fetched afterwards is."""
    await command(sealed_home, "vault", "create")
    await command(sealed_home, "vault", "set", "openai", input="newer value")
    async with sealed_home.working(reloading=True) as process, sealed_home.client() as claude:
        await claude.get_many([NAME, "anthropic.api_key"])
        sealed_home.write(broker=f"providers: [{{type: local}}, {{type: env}}]\n{SEALED}\n")
        await until(lambda: sealed_home.records("config_loaded"))
        assert (await claude.get(NAME)).source == "provider"
        await end(process)
    vault = FakeVault({"local://anthropic": b"newer value"})
    assert await ask(sealed_home, vault) == ("newer value", "cache")
    assert await ask(sealed_home, vault, name="anthropic.api_key") == ("newer value", "provider")


async def test_revoked_secret_stays_revoked(sealed_home: Home) -> None:
    """Its value in the file is not served, and once it is reinstated the vault is asked."""
    await ask(sealed_home)
    await command(sealed_home, "revoke", "secret", NAME, "--reason", "leaked")
    with pytest.raises(Revoked):
        await ask(sealed_home, away())
    await command(sealed_home, "reinstate", "secret", NAME, "--reason", "changed")
    assert await ask(sealed_home) == (VALUE, "provider")
    assert await ask(sealed_home, away()) == (VALUE, "cache")


async def test_several_workers_share_the_file(sealed_home: Home) -> None:
    """What either fetched, a later one has."""
    async with (
        sealed_home.working() as one,
        sealed_home.working(name="worker-2") as two,
        sealed_home.client() as claude,
    ):
        await claude.get_many([NAME, "anthropic.api_key"])
        await end(one)
        await end(two)
    assert await ask(sealed_home, away(), name=NAME) == (VALUE, "cache")
    assert await ask(sealed_home, away(), name="anthropic.api_key") == ("value of anthropic", "cache")


def garbage(home: Home) -> None:
    home.settings.sealed_cache_file.write_bytes(b"garbage")


def no_passphrase(_home: Home) -> None:
    os.environ["SECRET_BROKER_CACHE_PASSPHRASE"] = ""  # the fixture puts back what was there


@pytest.mark.parametrize(
    ("spoil", "event"),
    [(garbage, "sealed_cache_started_over"), (no_passphrase, "sealed_cache_off")],
)
async def test_broken_cache_never_keeps_a_worker_from_serving(
    sealed_home: Home, capsys: pytest.CaptureFixture[str], spoil: Any, event: str
) -> None:
    """It starts with nothing, says so once, and serves."""
    await ask(sealed_home)
    spoil(sealed_home)
    capsys.readouterr()
    assert await ask(sealed_home) == (VALUE, "provider")
    said = "".join(capsys.readouterr())
    assert said.count("sealed_cache_") == said.count(event) == 1
    assert VALUE not in said


async def test_processes_as_they_are_run(embedded_home: Home, processes: Processes) -> None:
    """A worker that is stopped leaves what the next one serves, though the vault's file is gone by then."""
    home = embedded_home
    await command(home, "vault", "create")
    await command(home, "vault", "set", "openai", input=VALUE)
    home.write(broker=BROKER)
    processes.environ["SECRET_BROKER_CACHE_PASSPHRASE"] = os.environ["SECRET_BROKER_CACHE_PASSPHRASE"]
    server = server_of(home)
    await asyncio.to_thread(server.start)
    for source in ("provider", "cache"):
        worker = await processes.start_worker("worker-1")
        async with home.client() as claude:
            secret = await claude.get(NAME, timeout=60)
        assert (secret.reveal(), secret.source) == (VALUE, source)
        worker.terminate()
        assert await processes.ended(worker) == 0
        home.settings.vault_file.unlink(missing_ok=True)
    await asyncio.to_thread(server.stop)
    assert "sealed_cache_off" not in processes.log
    assert "sealed_cache_started_over" not in processes.log
    assert values_in_files(home) == []
