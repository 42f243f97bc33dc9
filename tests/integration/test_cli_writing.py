"""`secret-broker put` and `generate` against a real vault, with the real audit and the file that workers follow."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
from click.testing import CliRunner, Result

from agent_sdk.wire.audit import AuditEvent, decode_line
from broker_worker.app import operator_vault
from broker_worker.app.clock import SystemClock
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder
from broker_worker.cli import main
from broker_worker.files.keys import load_broker_keys, load_seed
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.state.write_file import WriteFile

CANARY = "canary-93b1d7"
RULE = '\ncreate_in:\n  - {pattern: "made.*", ref: "local://agents.{name}"}\n'
Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home whose registry has a rule for created names."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    home = tmp_path / "home"
    assert CliRunner().invoke(main, ["--home", str(home), "init"]).exit_code == 0
    secrets = home / "config" / "secrets.yaml"
    secrets.write_text(secrets.read_text() + RULE)
    return home


@pytest.fixture
def run(home: Path) -> Run:
    """Runs `secret-broker …` there."""

    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002  # click's name for it
        return CliRunner().invoke(main, ["--home", str(home), *arguments], input=input)

    return run


def stored(home: Path, name: str) -> bytes:
    """What the vault has under a name."""
    vault = LocalVault(
        home / "vault" / "local.vault", VaultKeys(lambda: load_seed(home / "keys/vault.key"), lambda: None)
    )
    return vault.read([name])[name].value


def records(home: Path) -> list[AuditEvent]:
    """The operator's chain, without checkpoints."""
    lines = [line for file in list_files(home / "audit") for line in file.path.read_bytes().splitlines()]
    return [event for event in map(decode_line, lines) if event.event != "checkpoint"]


def test_commands_of_two_operators_take_turns(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits until the first is over; after a while it says so, having done nothing."""
    sink = JsonlSink(home / "audit", "operator", load_broker_keys(home / "keys").identity_seed, SystemClock())
    ends = Timer(0.5, sink.close)
    with monkeypatch.context() as impatient:
        impatient.setattr(operator_vault, "_TURN_SECONDS", 0)
        refused = run("put", "made.key", input=f"{CANARY}\n")
    assert (refused.exit_code, records(home)) == (7, [])
    assert "another command stores or rotates a value" in refused.stderr
    assert "did nothing" in refused.stderr
    ends.start()
    assert "made.key: stored, version 1" in run("put", "made.key", input=f"{CANARY}\n").stdout
    ends.join()


def test_a_value_is_stored_where_agents_would_find_it(run: Run, home: Path) -> None:
    """By the registry's rule, recorded before and after, told to the workers, and shown nowhere."""
    result = run("put", "made.key", "--by", "olivia", input=f"{CANARY}\n")
    assert result.exit_code == 0, result.output
    assert "made.key: stored, version 1" in result.stdout
    assert stored(home, "agents.made.key") == CANARY.encode()
    began, ended = records(home)
    assert (began.event, ended.event, ended.outcome, ended.version) == (
        "write_started",
        "value_written",
        "granted",
        "1",
    )
    assert (began.approver, began.request_id) == ("olivia", ended.request_id)
    (note,) = WriteFile(home / "state" / "writes.jsonl", lambda: 0).poll()
    assert (note.name, note.ref, note.version) == ("made.key", "local://agents.made.key", "1")
    assert verify_folder(home / "audit", load_broker_keys(home / "keys").identity_public).problems == []
    seen = result.output + "".join(
        file.read_bytes().decode(errors="replace") for part in ("audit", "state") for file in (home / part).iterdir()
    )
    assert CANARY not in seen


def test_a_name_is_created_once_and_replaced_by_version(run: Run, home: Path) -> None:
    """A clash has the exit code of the vault, and is recorded."""
    assert run("put", "made.key", input="first").exit_code == 0
    clash = run("put", "made.key", input=CANARY)
    assert clash.exit_code == 5
    assert CANARY not in clash.output
    assert "hint: made.key holds version 1: write `--replaces 1`" in clash.output
    assert stored(home, "agents.made.key") == b"first"
    other = run("put", "made.key", "--replaces", "7", input=CANARY)
    assert (other.exit_code, "--replaces 1" in other.output) == (5, True)
    assert "leave --replaces out" in run("put", "made.other", "--replaces", "1", input=CANARY).output
    assert (records(home)[-1].outcome, records(home)[-1].reason) == ("refused", "provider_conflict")
    assert run("put", "made.key", "--replaces", "1", input="second").exit_code == 0
    assert stored(home, "agents.made.key") == b"second"


def test_a_generated_value_is_not_shown(run: Run, home: Path) -> None:
    """Its version is, also as JSON."""
    result = run("generate", "made.key", "hex:32", "--json")
    assert json.loads(result.stdout) == {"name": "made.key", "version": "1"}
    assert len(stored(home, "agents.made.key")) == 64
    assert stored(home, "agents.made.key").decode() not in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("put", "made.key", CANARY), 2, "a value on the command line can be read by others"),
        (("put", "Made.key"), 2, "not in canonical form"),
        (("put", "elsewhere.key"), 5, "has no place"),
        (("generate", "made.key", "hex:4"), 2, "expected hex:16 to hex:1024"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Run, home: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """With what to do, without the value, and before anything is recorded."""
    result = run(*arguments, input=CANARY)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert CANARY not in result.output
    assert not (home / "audit").exists() or records(home) == []


def test_an_empty_value_is_refused(run: Run) -> None:
    """Whoever pipes nothing made a mistake."""
    assert run("put", "made.key", input="\n").exit_code == 5
