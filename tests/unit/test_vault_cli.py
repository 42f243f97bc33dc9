"""`secret-broker vault`: values come from a pipe or a prompt, are never shown, and never stand on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from click.testing import CliRunner, Result

from broker_worker.cli import main
from broker_worker.files.keys import load_seed
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.vault_format import KeyParameters

CANARY = "canary-51f0"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `secret-broker vault …` on a home of its own."""
    monkeypatch.delenv("SECRET_BROKER_VAULT_PASSPHRASE", raising=False)

    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002  # click's name for it
        return CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "vault", *arguments], input=input)

    return run


@pytest.fixture
def made(run: Run, tmp_path: Path) -> LocalVault:
    """An empty vault with a key file, made by the command."""
    assert run("create").exit_code == 0
    key_file = tmp_path / "home" / "keys" / "vault.key"
    return LocalVault(tmp_path / "home" / "vault" / "local.vault", VaultKeys(lambda: load_seed(key_file), lambda: None))


def test_created_vault_and_key_are_private(run: Run, tmp_path: Path) -> None:
    """`create` makes vault and key file with 0600 in folders with 0700, and says where they are."""
    result = run("create")
    home = tmp_path / "home"
    for path, mode in (("vault", 0o700), ("keys", 0o700), ("vault/local.vault", 0o600), ("keys/vault.key", 0o600)):
        assert (home / path).stat().st_mode & 0o777 == mode
    assert str(home / "keys" / "vault.key") in result.stdout


def test_second_create_is_refused(run: Run, made: LocalVault) -> None:
    """An existing vault is never overwritten; exit code 7."""
    result = run("create")
    assert result.exit_code == 7
    assert "exists already" in result.stderr


def test_piped_value_is_stored_without_its_line_feed(run: Run, made: LocalVault) -> None:
    """`echo value | … set NAME` stores the value; one line feed at its end is dropped, and nothing is shown."""
    result = run("set", "openai.api_key", input=f"{CANARY}\n\n")
    assert result.exit_code == 0
    assert made.read(["openai.api_key"])["openai.api_key"].value == f"{CANARY}\n".encode()
    assert "version 1" in result.stdout
    assert "local://openai.api_key" in result.stdout
    assert CANARY not in result.output


@pytest.mark.parametrize(
    ("piped", "options", "stored"),
    [
        (b"value", (), b"value"),
        (b"value\r\n", (), b"value"),
        (b"value\n", ("--raw",), b"value\n"),
        (b"\xff\x00\xfe", (), b"\xff\x00\xfe"),
        (b"x" * 131072 + b"\n", (), b"x" * 131072),
    ],
)
def test_piped_bytes_are_kept(
    run: Run, made: LocalVault, piped: bytes, options: tuple[str, ...], stored: bytes
) -> None:
    """Any bytes up to 128 KiB are stored; with --raw the line feed too."""
    assert run("set", "a", *options, input=piped).exit_code == 0
    assert made.read(["a"])["a"].value == stored


@pytest.mark.parametrize(
    ("piped", "says"), [(b"", "is empty"), (b"\n", "is empty"), (b"x" * 131073, "more than 131072")]
)
def test_values_of_other_sizes_are_refused(run: Run, made: LocalVault, piped: bytes, says: str) -> None:
    """An empty or over-large value is an error of the vault, exit code 5, with a clear message."""
    result = run("set", "a", input=piped)
    assert result.exit_code == 5
    assert says in result.stderr


@pytest.mark.parametrize("value", [(CANARY,), (f"--{CANARY}",), ("-c", CANARY), ("--", CANARY), (CANARY, "--raw")])
def test_value_on_the_command_line_is_refused(run: Run, made: LocalVault, value: tuple[str, ...]) -> None:
    """A value as an argument is a usage error that says why and what to do, and does not repeat it."""
    result = run("set", "a", *value)
    assert result.exit_code == 2
    assert "shell's history" in result.stderr
    assert "replace the value" in result.stderr
    assert CANARY not in result.output
    assert made.describe() == {}


def test_pasted_value_in_place_of_a_name_is_not_repeated(run: Run, made: LocalVault) -> None:
    """A name that is none is refused before a value is read, without repeating it."""
    result = run("set", f"SK-{CANARY}", input="x")
    assert result.exit_code == 5
    assert CANARY not in result.output


def test_prompt_hides_the_value(run: Run, made: LocalVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the value is asked for without echo, on stderr."""
    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda self: True)
    result = run("set", "a", input=f"{CANARY}\n")
    assert result.exit_code == 0
    assert made.read(["a"])["a"].value == CANARY.encode()
    assert CANARY not in result.stdout
    assert "Value" not in result.stdout


def test_list_shows_names_versions_and_times(run: Run, made: LocalVault) -> None:
    """`list` has one line a name, sorted, and no values."""
    made.set("b", CANARY.encode(), 1_700_000_000_000)
    made.set("a.long_name", CANARY.encode(), 1_700_000_000_000)
    made.set("b", CANARY.encode(), 1_700_000_001_000)
    result = run("list")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["a.long_name", "version", "1", "2023-11-14T22:13:20Z"],
        ["b", "version", "2", "2023-11-14T22:13:21Z"],
    ]
    assert CANARY not in result.output


def test_list_as_json_can_be_read_by_scripts(run: Run, made: LocalVault) -> None:
    """`list --json` is an array of objects, empty for an empty vault."""
    assert json.loads(run("list", "--json").stdout) == []
    made.set("a", b"x", 0)
    assert json.loads(run("list", "--json").stdout) == [
        {"name": "a", "version": 1, "updated_at": "1970-01-01T00:00:00Z"}
    ]


def test_empty_vault_says_what_to_do(run: Run, made: LocalVault) -> None:
    """An empty list prints nothing on stdout and a hint on stderr."""
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "vault set NAME" in result.stderr


def test_rm_removes_and_then_finds_nothing(run: Run, made: LocalVault) -> None:
    """`rm` removes a name; a second time it is an error of the vault, exit code 5."""
    made.set("a", b"x", 0)
    assert run("rm", "a", "--yes").exit_code == 0
    assert made.describe() == {}
    result = run("rm", "a", "--yes")
    assert result.exit_code == 5
    assert "has no entry 'a'" in result.stderr
    assert "vault list" in result.stderr


def test_rm_asks_at_a_terminal(run: Run, made: LocalVault, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal `rm` asks first; --yes does not."""
    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda self: True)
    made.set("a", b"x", 0)
    assert run("rm", "a", input="n\n").exit_code == 1
    assert made.describe()
    assert run("rm", "a", "--yes").exit_code == 0
    assert not made.describe()


def test_rm_removes_nothing_unasked(run: Run, made: LocalVault) -> None:
    """Where nobody can be asked, as in a script, it wants to be told."""
    made.set("a", b"x", 0)
    result = run("rm", "a")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert made.describe()


@pytest.mark.parametrize("arguments", [("list",), ("set", "a"), ("rm", "a", "--yes")])
def test_missing_vault_says_how_to_make_one(run: Run, arguments: tuple[str, ...]) -> None:
    """Without a vault every command ends with exit code 7 and the command that makes one."""
    result = run(*arguments, input="x")
    assert result.exit_code == 7
    assert "secret-broker vault create" in result.stderr


def test_passphrase_vault_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With --passphrase the vault opens with the environment's passphrase, and needs no key file."""
    quick = KeyParameters.of_passphrase(passes=1, memory_kib=8192)
    monkeypatch.setattr(KeyParameters, "of_passphrase", lambda: quick)
    monkeypatch.setenv("SECRET_BROKER_VAULT_PASSPHRASE", "correct horse battery")
    assert run("create", "--passphrase").exit_code == 0
    assert run("set", "a", input="x").exit_code == 0
    assert not (tmp_path / "home" / "keys").exists()
    monkeypatch.setenv("SECRET_BROKER_VAULT_PASSPHRASE", "wrong horse battery")
    result = run("set", "a", input="y")
    assert result.exit_code == 5
    assert "does not open with this passphrase" in result.stderr


def test_piped_value_leaves_no_room_for_a_passphrase_prompt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the passphrase is not read from the value's pipe: the variable is named instead."""
    quick = KeyParameters.of_passphrase(passes=1, memory_kib=8192)
    monkeypatch.setattr(KeyParameters, "of_passphrase", lambda: quick)
    result = run("create", "--passphrase", input="correct horse battery\n")
    assert result.exit_code == 5
    assert "set SECRET_BROKER_VAULT_PASSPHRASE" in result.stderr


def test_other_files_can_be_named(run: Run, tmp_path: Path) -> None:
    """--file and --key-file reach a vault outside the home."""
    places = ("--file", str(tmp_path / "v" / "my.vault"), "--key-file", str(tmp_path / "k" / "my.key"))
    assert run(*places, "create").exit_code == 0
    assert run(*places, "set", "a", input="x").exit_code == 0
    assert json.loads(run(*places, "list", "--json").stdout)[0]["name"] == "a"
    assert not (tmp_path / "home").exists()
