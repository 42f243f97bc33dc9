"""`secret-broker migrate` on a real installation with a real vault, audit and git; and a crash in every step."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scan_maker import Maker

from broker_worker.app import migrating
from broker_worker.app.operator_vault import OperatorVault
from broker_worker.cli import main
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import load_seed
from broker_worker.providers.local_vault import LocalVault, VaultKeys

M = Maker(3)
KEY, PASSWORD, SECOND = M.checked("ghp_"), f"{M.password()} # {M.password()}", M.password()
BEFORE = (
    f"# mine\r\nDEBUG=1\r\nexport GITHUB_TOKEN={KEY} # keep\r\nDB_PASSWORD='{PASSWORD}'\r\nURL=https://a.internal\r\n"
)
AFTER = (
    "# mine\r\nDEBUG=1\r\nexport GITHUB_TOKEN=secret://github.token # keep\r\n"
    "DB_PASSWORD='secret://db.password'\r\nURL=https://a.internal\r\n"
)
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `secret-broker migrate …` on a new home, in a folder with an env file."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    home = tmp_path / "home"
    assert CliRunner().invoke(main, ["--home", str(home), "init"]).exit_code == 0
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path(".env").write_bytes(BEFORE.encode())
    Path(".env").chmod(0o640)
    return lambda *arguments: CliRunner().invoke(main, ["--home", str(home), "migrate", *arguments])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where that home is."""
    return tmp_path / "home"


def stored(home: Path) -> dict[str, bytes]:
    """What the vault holds."""
    vault = LocalVault(home / "vault/local.vault", VaultKeys(lambda: load_seed(home / "keys/vault.key"), lambda: None))
    return {name: found.value for name, found in vault.read(list(vault.describe())).items()}


def check_done(home: Path) -> None:
    """Everything is where it belongs, once."""
    assert Path(".env").read_bytes() == AFTER.encode()
    assert Path(".env").stat().st_mode & 0o777 == 0o640
    assert stored(home) == {"github.token": KEY.encode(), "db.password": PASSWORD.encode()}
    configuration = load_configuration(home / "config")
    assert configuration.registry["db.password"].ref == "local://db.password"
    granted = [grant.pattern.text for grant in configuration.policy.agents["claude"].grants]
    assert granted == ["openai.api_key", "anthropic.api_key", "github.token", "db.password"]
    assert [each.name for each in Path().iterdir()] == [".env"], "no file is left beside it"


def test_values_move_and_references_stay(run: Run, home: Path) -> None:
    """The diff is shown, no value is, and comments of the operator's files stay."""
    comments = [line for line in (home / "config/policy.yaml").read_text().splitlines() if "#" in line]
    result = run(".env", "--agent", "claude", "--yes")
    assert result.exit_code == 0, result.output
    check_done(home)
    assert "+      - db.password" in result.stdout
    assert "line 4: DB_PASSWORD -> secret://db.password" in result.stdout
    assert [line for line in (home / "config/policy.yaml").read_text().splitlines() if "#" in line] == comments
    files = [file for file in home.rglob("*") if file.is_file()]
    for value in (KEY, PASSWORD):
        assert value not in result.output
        assert not [file for file in files if value.encode() in file.read_bytes()]
    again = run(".env", "--agent", "claude", "--yes")
    assert "nothing to move" in again.stdout


def test_a_dry_run_and_a_missing_yes_change_nothing(run: Run, home: Path) -> None:
    """Without a terminal there is nobody to ask."""
    files = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert run(".env", "--agent", "claude", "--dry-run").exit_code == 0
    assert run(".env", "--agent", "claude").exit_code == 2
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == files
    assert Path(".env").read_bytes() == BEFORE.encode()


def test_a_backup_puts_the_file_back(run: Run, home: Path) -> None:
    """Byte for byte, with its mode; one that was changed since only with --force; another home's is refused."""
    run(".env", "--yes")
    (backup,) = (home / "backups").iterdir()
    assert backup.stat().st_mode & 0o777 == 0o600
    Path(".env").write_text("NEW=1\n")
    refused = run("--restore", str(backup))
    assert refused.exit_code == 7
    assert "was changed since" in refused.stderr
    assert run("--restore", str(backup), "--force").exit_code == 0
    assert Path(".env").read_bytes() == BEFORE.encode()
    assert Path(".env").stat().st_mode & 0o777 == 0o640
    assert "is as the backup has it" in run("--restore", str(backup)).stdout
    raw = bytearray(backup.read_bytes())
    raw[-1] ^= 1
    backup.write_bytes(raw)
    assert run("--restore", str(backup)).exit_code == 7


STEPS = ("backup", "first value", "after first value", "second value", "registry", "policy", "env file")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_any_step_is_made_good_by_the_next_run(
    run: Run, home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done is found again; before the env file is changed, the vault and a backup have all that it had."""

    def fail(patched: pytest.MonkeyPatch, at: int, name: str, module: object) -> None:
        calls = iter(range(100))
        real = getattr(module, name)

        def broken(*arguments: object, **options: object) -> object:
            if next(calls) == at:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        patched.setattr(module, name, broken)

    faults: dict[str, tuple[int, str, object]] = {
        "backup": (0, "store_backup", migrating),
        "first value": (0, "write", OperatorVault),
        "after first value": (1, "fetch", OperatorVault),
        "second value": (1, "write", OperatorVault),
        "registry": (0, "replace_file", migrating),
        "policy": (1, "replace_file", migrating),
        "env file": (2, "replace_file", migrating),
    }
    with monkeypatch.context() as patched:
        fail(patched, *faults[step])
        assert run(".env", "--agent", "claude", "--yes").exit_code == 130
    assert Path(".env").read_bytes() == BEFORE.encode(), "the plaintext goes last"
    assert run(".env", "--agent", "claude", "--yes").exit_code == 0
    check_done(home)
    assert len(list((home / "backups").iterdir())) == 1


def test_a_vault_that_fails_halfway_leaves_the_file_as_it_was(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the vault's, and nothing of the operator's files is changed."""
    real, calls = OperatorVault.write, iter(range(9))

    async def failing(self: OperatorVault, name: str, value: bytes, **options: object) -> str | None:
        if next(calls):
            raise ProviderError(FailureKind.UNREACHABLE, "the vault is away", hint="try again")
        return await real(self, name, value, **options)  # type: ignore[arg-type]  # passed on as they are

    secrets = (home / "config/secrets.yaml").read_bytes()
    monkeypatch.setattr(OperatorVault, "write", failing)
    result = run(".env", "--yes")
    assert result.exit_code == 5
    assert "the vault is away" in result.stderr
    assert Path(".env").read_bytes() == BEFORE.encode()
    assert (home / "config/secrets.yaml").read_bytes() == secrets


def test_a_vault_that_keeps_nothing_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value is read back before the plaintext goes."""

    async def swallowing(self: OperatorVault, name: str, value: bytes, **options: object) -> None:
        del self, name, value, options

    monkeypatch.setattr(OperatorVault, "write", swallowing)
    result = run(".env", "--yes")
    assert result.exit_code == 5
    assert "does not give it back" in result.stderr
    assert Path(".env").read_bytes() == BEFORE.encode()


def test_a_file_that_changes_meanwhile_is_left_alone(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's edit is not lost, in the env file as in the operator's files; the next run goes on."""
    real = OperatorVault.announce_all

    async def editing(self: OperatorVault) -> None:
        edited.write_bytes(edited.read_bytes() + b"# edited\n")
        await real(self)

    for edited in (home / "config/secrets.yaml", Path(".env")):
        with monkeypatch.context() as patched:
            patched.setattr(OperatorVault, "announce_all", editing)
            result = run(".env", "--yes")
        assert result.exit_code == 7
        assert "was changed meanwhile" in result.stderr
        assert edited.read_bytes().endswith(b"# edited\n")
        assert KEY in Path(".env").read_text()
    assert run(".env", "--yes").exit_code == 0
    assert Path(".env").read_bytes() == f"{AFTER}# edited\n".encode()


def test_another_value_under_the_name_is_not_overwritten(run: Run, home: Path) -> None:
    """A name that the vault has with another value is refused; another name, or leaving it out, helps."""
    CliRunner().invoke(main, ["--home", str(home), "vault", "set", "db.password"], input="other")
    refused = run(".env", "--yes")
    assert refused.exit_code == 5
    assert "--name DB_PASSWORD=NAME" in refused.stderr
    assert Path(".env").read_bytes() == BEFORE.encode()
    assert list((home / "backups").iterdir()) == []  # of a file that was not changed no copy stays behind
    result = run(".env", "--yes", "--name", "DB_PASSWORD=app.db", "--exclude", "GITHUB_TOKEN")
    assert result.exit_code == 0, result.output
    assert f"GITHUB_TOKEN={KEY}" in Path(".env").read_text()
    assert stored(home)["app.db"] == PASSWORD.encode()


def test_places_of_created_names_need_no_line(run: Run, home: Path) -> None:
    """`create_in` says where; without it, `--to` does."""
    secrets = home / "config/secrets.yaml"
    secrets.write_text(secrets.read_text() + '\ncreate_in:\n  - {pattern: "app.**", ref: "local://made.{name}"}\n')
    before = secrets.read_bytes()
    assert run(".env", "--yes", "--prefix", "app").exit_code == 0
    assert secrets.read_bytes() == before
    assert stored(home)["made.app.db.password"] == PASSWORD.encode()
    Path("b.env").write_text(f"MAIL_PASSWORD={SECOND}\n")
    assert run("b.env", "--yes", "--to", "local://given.{name}").exit_code == 0
    assert stored(home)["given.mail.password"] == SECOND.encode()
    for template in ("local://fixed", "env://A_{name}", "https://{name}"):
        assert run("b.env", "--to", template).exit_code == 2


def test_what_cannot_be_done_safely_is_refused(run: Run) -> None:
    """Each before anything is changed, with what to do; no value is shown."""
    cases = {
        "read-only": BEFORE,
        "hard links": BEFORE,
        "two values": f"DB_PASSWORD={SECOND}\nDB_PASSWORD={SECOND}x\n",
        "is made of DB_PASSWORD": f"DB_PASSWORD={SECOND}\nU=x${{DB_PASSWORD}}\n",
        "makes no secret name": f"PASSWORD={SECOND}\n",
        "is no `NAME=value` line": f"DB_PASSWORD='{SECOND}\n",
    }
    for message, text in cases.items():
        for old in (Path(".env"), Path("other")):
            old.unlink(missing_ok=True)
        Path(".env").write_text(text)
        Path(".env").chmod(0o400 if message == "read-only" else 0o600)
        if message == "hard links":
            Path("other").hardlink_to(".env")
        name = ("--name", "PASSWORD=Not A Name") if "secret name" in message else ()
        result = run(".env", "--yes", *name)
        assert result.exit_code in {3, 7}, (message, result.output)
        assert message in result.stderr
        assert "hint: " in result.stderr
        assert SECOND not in result.output
    for path in ("nowhere.env", "."):
        assert run(path).exit_code == 7


def test_unknown_agents_and_variables_are_refused(run: Run, home: Path) -> None:
    """What is misspelt gives nobody anything."""
    assert "no agent `claud`" in run(".env", "--agent", "claud", "--yes").stderr
    assert "SPELT" in run(".env", "--include", "SPELT", "--yes").stderr
    assert not (home / "backups").exists()


def test_links_are_followed_and_other_variables_can_be_included(run: Run, home: Path) -> None:
    """The file behind a link changes, the link stays; what looks like no secret moves if it is named."""
    Path("link").symlink_to(".env")
    assert run("link", "--include", "DEBUG", "--name", "DEBUG=app.debug", "--yes").exit_code == 0
    assert Path("link").is_symlink()
    assert "DEBUG=secret://app.debug\r\n" in Path(".env").read_bytes().decode()
    assert stored(home)["app.debug"] == b"1"


def test_plaintext_in_comments_is_pointed_out(run: Run) -> None:
    """What is no variable stays and is named by its line, whether anything moves or not; what was excluded is known."""
    Path(".env").write_text(f"# OLD={M.checked('ghp_')}\nGITHUB_TOKEN={KEY}\nDB_PASSWORD={SECOND}\n")
    for arguments in ((), ("--exclude", "GITHUB_TOKEN")):
        result = run(".env", "--exclude", "DB_PASSWORD", "--dry-run", *arguments)
        assert result.stdout.count("keeps plaintext") == 1
        assert ".env:1 keeps plaintext" in result.stdout


def test_without_the_key_nothing_is_put_back_and_no_key_is_made(run: Run, home: Path) -> None:
    """A new key would open nothing, and stand in the place of the one to bring back."""
    assert run(".env", "--yes").exit_code == 0
    (backup,) = (home / "backups").iterdir()
    (home / "keys/backup.key").unlink()
    assert run("--restore", str(backup)).exit_code == 7
    assert not (home / "keys/backup.key").exists()
    assert Path(".env").read_bytes() == AFTER.encode()


def test_names_cannot_steer_the_terminal(run: Run) -> None:
    """What stands in somebody's env file is written as escapes."""
    Path(".env").write_text(f"A\x1b]0;PI_KEY={SECOND}\n")
    result = run(".env", "--dry-run", "--include", "A\x1b]0;PI_KEY")
    assert "line 1: A\\x1b]0;PI_KEY -> " in result.stdout
    assert "\x1b" not in result.stdout


def test_a_policy_that_is_a_link_stays_one(run: Run, home: Path, tmp_path: Path) -> None:
    """Operators keep these files in a repository of their own: the line is added there."""
    policy, kept = home / "config/policy.yaml", tmp_path / "kept.yaml"
    policy.rename(kept)
    policy.symlink_to(kept)
    assert run(".env", "--agent", "claude", "--yes").exit_code == 0
    assert policy.is_symlink()
    assert "- db.password" in kept.read_text()


def test_a_weak_password_is_pointed_out(run: Run) -> None:
    """What has a secret's name and does not look like one stays, and people are told so."""
    Path(".env").write_text("DB_PASSWORD=postgres\nAPI_TOKEN=secret://api.token\nTOKEN_URL=x\n")
    result = run(".env", "--yes")
    assert "DB_PASSWORD stays" in result.stdout
    assert "TOKEN" not in result.stdout
    assert run(".env", "--include", "DB_PASSWORD", "--yes").exit_code == 0
    assert "DB_PASSWORD=secret://db.password\n" in Path(".env").read_text()


@pytest.mark.parametrize("other", ["debug", "secret://db.other", "x"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_second_value_of_a_variable_is_not_overwritten(run: Run, home: Path, other: str, order: int) -> None:
    """Whichever comes first, and though it looks like no secret: the one in use would be another one afterwards."""
    lines = [f"DB_PASSWORD={SECOND}", f"DB_PASSWORD={other}"][::order]
    text = "\n".join(lines) + "\n"
    Path(".env").write_text(text)
    result = run(".env", "--yes")
    assert result.exit_code == 7, result.output
    assert "DB_PASSWORD stands in line 1 and in line 2 with two values" in result.stderr
    assert Path(".env").read_text() == text
    assert "db.password" not in stored(home)
    Path(".env").write_text(f"DB_PASSWORD={SECOND}\nDB_PASSWORD='{SECOND}'\nLOG=a\nLOG=b\n")
    assert run(".env", "--yes").exit_code == 0
    assert Path(".env").read_text() == (
        "DB_PASSWORD=secret://db.password\nDB_PASSWORD='secret://db.password'\nLOG=a\nLOG=b\n"
    )


def test_keys_that_git_has_are_named(run: Run) -> None:
    """By variable, commit and file, in a repository with odd names; where there is no repository, that is said."""
    assert "git's history was not looked at" in run(".env", "--dry-run").stdout
    subprocess.run(["git", "init", "-q"], check=True)
    assert "git has none of these values" in run(".env", "--dry-run").stdout
    odd = Path("a b\n\u00fc.txt")
    odd.write_text(f"see {KEY}")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "add", "-f", odd], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "x"], check=True)
    odd.unlink()
    result = run(".env", "--yes")
    assert "rotate GITHUB_TOKEN: git has it (commit " in result.stdout
    assert "a b\\nü.txt" in result.stdout
    assert "rotate DB_PASSWORD" not in result.stdout
    assert KEY not in result.stdout


def test_one_name_has_one_value_in_all_files(run: Run, home: Path) -> None:
    """Two files with one value share a name; with two values they are refused."""
    Path("b.env").write_text(f"GITHUB_TOKEN={KEY}\n")
    Path("c.env").write_text(f"DB_PASSWORD={SECOND}\n")
    assert "would both be called db.password" in run(".env", "c.env", "--yes").stderr
    assert run(".env", "b.env", "--yes").exit_code == 0
    assert Path("b.env").read_text() == "GITHUB_TOKEN=secret://github.token\n"
    assert len(list((home / "backups").iterdir())) == 2
