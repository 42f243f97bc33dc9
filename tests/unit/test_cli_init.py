"""`secret-broker init`: whole or not at all, private, valid, and never over something that exists."""

import os
import stat
import sys
from pathlib import Path

import click.testing
import pytest
import yaml

from agent_sdk.wire.sealing import run_public_key
from broker_worker.cli import main
from broker_worker.core.errors import SetupError
from broker_worker.core.lint import lint
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import ISSUER, VAULT, load_broker_keys, load_seed
from broker_worker.files.templates import PROVIDER_SECTIONS
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.settings import Settings

PROVIDERS = tuple(PROVIDER_SECTIONS)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test without variables of the machine it runs on."""
    for name in ("SECRET_BROKER_HOME", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that does not exist yet."""
    return tmp_path / "home"


def run(home: Path, *arguments: str) -> click.testing.Result:
    """Run `secret-broker init` on a home."""
    return click.testing.CliRunner().invoke(main, ["--home", str(home), "init", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_new_installation_is_valid_and_without_warnings(home: Path, provider: str) -> None:
    """What init writes loads, means what the examples say, and the linter has nothing to say about it."""
    assert run(home, "--provider", provider).exit_code == 0
    configuration = load_configuration(home / "config")
    assert [section.type for section in configuration.providers] == [provider]
    assert set(configuration.policy.agents) == {"claude", "codex", "grok", "random-script"}
    assert lint(configuration, now=0) == ()
    assert load_broker_keys(home / "keys").intake


def test_issuer_in_the_configuration_is_the_one_whose_key_was_made(home: Path) -> None:
    """issuers.yaml trusts this installation's own issuer and no example key."""
    run(home)
    anchors = load_configuration(home / "config").anchors
    assert [anchor.public_key for anchor in anchors] == [run_public_key(load_seed(home / "keys" / ISSUER))]
    assert "example" not in (home / "config" / "issuers.yaml").read_text().split("issuers:")[0]


def test_references_of_the_environment_provider_are_variable_names(home: Path) -> None:
    """With the env provider the registry names variables."""
    run(home, "--provider", "env")
    registry = yaml.safe_load((home / "config" / "secrets.yaml").read_text())["secrets"]
    assert registry["openai.api_key"] == "env://OPENAI_API_KEY"


def test_local_vault_opens_with_its_key(home: Path) -> None:
    """The embedded vault is empty and opens with keys/vault.key."""
    run(home)
    keys = VaultKeys(lambda: load_seed(home / "keys" / VAULT), lambda: None)
    assert LocalVault(Settings.load(home).vault_file, keys).describe() == {}


@pytest.mark.parametrize("provider", ["onepassword", "env"])
def test_other_providers_get_no_vault(home: Path, provider: str) -> None:
    """An installation with another vault has neither a local one nor a key to it."""
    run(home, "--provider", provider)
    assert not (home / "vault").exists()
    assert not (home / "keys" / VAULT).exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_everything_is_private(home: Path) -> None:
    """Folders have mode 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        run(home)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.rglob("*"))}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_second_init_changes_nothing(home: Path) -> None:
    """A second init lists what is in the way and leaves every byte as it is."""
    run(home)
    before = contents(home)
    result = run(home)
    assert result.exit_code == 7
    assert result.stderr.startswith(f"error: in the way: {home / 'config'}, {home / 'keys'}, {home / 'vault'}\nhint: ")
    assert contents(home) == before


@pytest.mark.parametrize("occupied", ["config/policy.yaml", "keys/identity.key", "vault/local.vault"])
def test_one_file_in_the_way_is_enough(home: Path, occupied: str) -> None:
    """A single file in one of the folders stops it, and nothing is added beside it."""
    path = home / occupied
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert run(home).exit_code == 7
    assert contents(home) == {occupied: b"mine"}


def test_empty_folders_are_no_obstacle(home: Path) -> None:
    """Folders that a container mounted or a person made beforehand may be there, empty."""
    (home / "config").mkdir(parents=True)
    home.chmod(0o755)
    assert run(home).exit_code == 0


def test_failure_in_the_middle_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a step fails, no key and no file of the installation is left, and the next try succeeds."""
    with monkeypatch.context() as patched:

        def fail(_folder: Path) -> None:
            raise SetupError("disk full")

        patched.setattr(sys.modules["broker_worker.cli.init"], "load_configuration", fail)
        assert run(home).exit_code == 7
    assert list(home.iterdir()) == []
    assert run(home).exit_code == 0


@pytest.mark.parametrize("step", [1, 2, 3])
def test_failure_while_moving_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """If one of the folders cannot be put in its place, those already there are taken back."""
    steps = 0
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == step:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        result = run(home)
    assert result.exit_code == 7
    assert "cannot be put in its place: No space left on device" in result.stderr
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_home_that_others_can_write_is_refused(home: Path) -> None:
    """In a folder that others can write they could exchange the keys later."""
    home.mkdir()
    home.chmod(0o777)
    result = run(home)
    assert result.exit_code == 7
    assert "could exchange the keys" in result.stderr
    assert list(home.iterdir()) == []


def test_output_shows_no_key(home: Path) -> None:
    """Nothing of a key is printed."""
    shown = run(home).output
    keys = [path.read_text() for path in (home / "keys").rglob("*.key")]
    assert keys
    assert not any(key.split(":")[-1].strip() in shown for key in keys)


def test_next_steps_name_the_home_only_where_it_differs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands shown work as they stand: with the home exported if it is not the default one."""
    assert f"export SECRET_BROKER_HOME={home}" in run(home).output
    other = home.with_name("other home")
    monkeypatch.setenv("SECRET_BROKER_HOME", str(other))
    assert "export SECRET_BROKER_HOME" not in click.testing.CliRunner().invoke(main, ["init"]).output


def test_commands_that_are_shown_exist(home: Path) -> None:
    """Every `secret-broker …` in the next steps is a command."""
    lines = [line.split() for line in run(home).output.splitlines() if line.startswith("  secret-broker ")]
    assert {words[1] for words in lines} <= set(main.commands)
