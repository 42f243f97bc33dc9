"""`secret-broker cache` and doctor's line about it: what there is, another wrapping, and its end."""

import json
import time
from pathlib import Path
from typing import Any

import click.testing
import pytest
from click.testing import CliRunner
from desk_workbench import write_files
from sealed_workbench import CANARY, QUICK

from broker_worker.app.clock import SystemClock
from broker_worker.app.sealing import sealed_store
from broker_worker.cache.sealed.format import Record
from broker_worker.cache.sealed.passphrase import PassphraseWrapping
from broker_worker.cli import main
from broker_worker.cli.doctor import examine
from broker_worker.cli.doctor.check import Check, Status
from broker_worker.core.configuration import SealedSettings
from broker_worker.core.digest import providers_digest
from broker_worker.files.configuration import load_configuration
from broker_worker.settings import Settings

REF = "local://openai"
SEALED = "provider: {type: local}\ncache: {sealed: true, master_key: passphrase}\n"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation with a sealed cache that no worker made yet."""
    monkeypatch.setenv("SECRET_BROKER_CACHE_PASSPHRASE", "correct horse battery staple")
    monkeypatch.setattr(PassphraseWrapping, "cost", QUICK)
    write_files(tmp_path / "home" / "config", broker=SEALED)
    (tmp_path / "home" / "keys").mkdir(mode=0o700)
    return Settings(home=tmp_path / "home")


def keep(settings: Settings) -> None:
    """What a worker does."""
    now = time.time_ns() // 1_000_000
    binding = providers_digest(load_configuration(settings.config_dir))
    store = sealed_store(SealedSettings("passphrase"), settings, SystemClock())
    store.open({REF}, binding)
    gone = Record("local://gone", None, now - 2000, now - 1, binding, CANARY)
    store.commit({REF: Record(REF, "7", now, now + 60_000, binding, CANARY), gone.ref: gone}, 10, is_last=True)


def run(settings: Settings, *words: str) -> click.testing.Result:
    result = CliRunner().invoke(main, ["--home", str(settings.home), "cache", *words])
    assert CANARY.decode() not in result.output
    return result


def document(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(settings, "status", "--json").output)
    return found


def check(settings: Settings) -> Check:
    (found,) = examine(settings, ("cache",))
    return found


@pytest.mark.parametrize(("passphrase", "why"), [("", "needs its passphrase"), ("short", "shorter than 12")])
def test_one_that_no_worker_could_make_is_not_said_to_come(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, passphrase: str, why: str
) -> None:
    """Before the first start, doctor and status say what a worker would say; nothing is made."""
    monkeypatch.setenv("SECRET_BROKER_CACHE_PASSPHRASE", passphrase)
    result = run(settings, "status")
    assert (result.exit_code, why in result.stderr) == (7, True)
    assert document(settings)["exists"] is False
    check = next(check for check in examine(settings) if check.name == "sealed cache")
    assert (check.status, why in check.detail) == (Status.WARN, True)
    assert list((settings.home / "keys").glob("cache.*")) == []


def test_status_says_what_there_is(settings: Settings) -> None:
    """References, versions and times; never values."""
    keep(settings)
    shown = document(settings)
    assert (shown["opens"], shown["wrapped_by"], shown["generation"]) == (True, "passphrase", 1)
    assert [(record["ref"], record["version"]) for record in shown["records"]] == [(REF, "7")]
    text = run(settings, "status").output
    assert f"{settings.sealed_cache_file}: 1 values" in text
    assert "wrapped by passphrase" in text
    assert "local://gone" not in text
    assert check(settings) == Check("sealed cache", Status.OK, "opens; its key is wrapped by passphrase; values: 1")


def test_nothing_there_is_said_and_nothing_is_made(settings: Settings) -> None:
    """Before the first worker, and where it is switched off."""
    assert "a worker makes" in run(settings, "status").output
    assert (document(settings)["opens"], document(settings)["records"]) == (False, [])
    assert check(settings).status is Status.OK
    assert not settings.state_dir.exists()
    write_files(settings.config_dir)
    assert run(settings, "status").output == "off: values are kept in memory only\n"
    assert document(settings) == {"sealed": False}
    assert list(examine(settings, ("cache",))) == []
    result = run(settings, "rewrap")
    assert (result.exit_code, "hint: write `cache: {sealed: true}` there" in result.output) == (3, True)


def test_trouble_has_an_exit_code_and_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would not be used is neither used nor replaced by looking at it."""
    keep(settings)
    before = settings.sealed_cache_key.read_bytes(), settings.sealed_cache_file.read_bytes()
    monkeypatch.setenv("SECRET_BROKER_CACHE_PASSPHRASE", "another good passphrase")
    result = run(settings, "status")
    assert result.exit_code == 7
    assert "error: the sealed cache's master key does not open with this passphrase key" in result.output
    assert "hint: nothing is lost but time" in result.output
    result = run(settings, "status", "--json")
    assert (result.exit_code, json.loads(result.output)["opens"]) == (1, False)
    assert check(settings).status is Status.WARN
    assert "begins with an empty one" in check(settings).hint
    monkeypatch.delenv("SECRET_BROKER_CACHE_PASSPHRASE")
    assert "set SECRET_BROKER_CACHE_PASSPHRASE" in check(settings).hint
    assert before == (settings.sealed_cache_key.read_bytes(), settings.sealed_cache_file.read_bytes())


def test_clearing_removes_everything(settings: Settings) -> None:
    """Only if somebody says so; once more does no harm, nor does it where the switch is off."""
    keep(settings)
    refused = run(settings, "clear")
    assert (refused.exit_code, "cache clear --yes" in refused.output) == (2, True)
    assert settings.sealed_cache_file.exists()
    assert run(settings, "clear", "--yes").output == "removed: file, key and counter\n"
    assert [path.name for path in settings.keys_dir.iterdir()] == []
    assert not settings.sealed_cache_file.exists()
    assert run(settings, "clear", "--yes").exit_code == 0
    keep(settings)
    write_files(settings.config_dir)
    assert run(settings, "clear", "--yes").exit_code == 0
    assert not settings.sealed_cache_file.exists()


def test_another_passphrase_keeps_the_values(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one comes from its own variable; the old one opens nothing then."""
    keep(settings)
    monkeypatch.setenv("SECRET_BROKER_CACHE_NEW_PASSPHRASE", "another good passphrase")
    result = run(settings, "rewrap")
    assert result.output == "the key was wrapped by passphrase and is wrapped by passphrase now; the values stay\n"
    assert run(settings, "status").exit_code == 7
    monkeypatch.setenv("SECRET_BROKER_CACHE_PASSPHRASE", "another good passphrase")
    assert len(document(settings)["records"]) == 1


def test_another_kind_keeps_the_values(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As broker.yaml says, or as the command does where broker.yaml says `auto`."""
    keep(settings)
    result = run(settings, "rewrap", "--to", "systemd")
    assert result.exit_code == 2
    assert "broker.yaml says `master_key: passphrase`" in result.output
    write_files(settings.config_dir, broker=SEALED.replace("passphrase", "auto"))
    result = run(settings, "rewrap", "--to", "systemd")
    assert (result.exit_code, "systemd gave this process no credentials" in result.output) == (7, True)
    assert len(document(settings)["records"]) == 1
    (tmp_path / "secret-broker-cache").write_bytes(bytes(range(32)))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "is wrapped by systemd now" in run(settings, "rewrap", "--to", "systemd").output
    monkeypatch.delenv("SECRET_BROKER_CACHE_PASSPHRASE")
    assert document(settings)["wrapped_by"] == "systemd"
    assert len(document(settings)["records"]) == 1
