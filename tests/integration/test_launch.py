"""`secret-broker launch`: the command is on its own afterwards, with one run's credential and nothing of ours."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent_sdk import RunCredential
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.cli import main
from broker_worker.cli.init import create_installation
from broker_worker.cli.minting import RunOrder, mint_run
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import load_broker_keys
from broker_worker.settings import Settings

REPORT = """
import json, os, sys
from agent_sdk import RunCredential
inherited = {name: text for name, text in os.environ.items()}
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
descriptors = [number for number in range(64) if is_open(number)]
run = RunCredential.load()
print(json.dumps({
    "environ": inherited, "descriptors": descriptors, "run": json.loads(run.to_json()), "argv": sys.argv[1:]
}))
"""
POLICY = "agents:\n  claude:\n    allow: [openai.api_key]\n  codex:\n    allow: []\ndefault: deny\n"
COMMANDS = "{keys: {argv: [keys], env: [KEYS_LOGIN]}}"
BROKER = f"providers: [{{type: env}}, {{type: aws-sm}}, {{type: vault}}, {{type: exec, commands: {COMMANDS}}}]\n"
BROKER += "cache: {sealed: true, passphrase_env: OF_THE_CACHE}\n"
SECRETS = "secrets:\n  openai.api_key:\n    ref: env://HIDDEN_VALUE\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation whose policy knows claude and codex."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REDIS_URL", raising=False)
        settings = Settings.load(tmp_path_factory.mktemp("home"))
        create_installation(settings, "env", now=time.time_ns() // 1_000_000)
    (settings.config_dir / "broker.yaml").write_text(BROKER)
    (settings.config_dir / "policy.yaml").write_text(POLICY)
    (settings.config_dir / "secrets.yaml").write_text(SECRETS)
    return settings


def _command(settings: Settings, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "broker_worker.cli", "--home", str(settings.home), "launch", *arguments]


def _launch(settings: Settings, *arguments: str, **environ: str) -> Any:
    done = subprocess.run(
        _command(settings, *arguments, "--", sys.executable, "-c", REPORT, "--agent", "x", "--"),
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _invoke(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(settings.home), "launch", *arguments])


@pytest.fixture(scope="module")
def report(settings: Settings) -> Any:
    """What a launched command found."""
    return _launch(
        settings, "--agent", "claude", "--run", "run-7", "--ttl", "10m", "--task", "ticket 12", "--scope", "openai.*",
        REDIS_URL="redis://admin:hunter2@queue:6379/3?password=hunter3",
        SECRET_BROKER_HOME="/nowhere",
        SECRET_BROKER_VAULT_PASSPHRASE="open sesame",
        OP_SERVICE_ACCOUNT_TOKEN="ops_x",
        AWS_ACCESS_KEY_ID="AKIA",
        AWS_SECRET_ACCESS_KEY="x",
        AWS_SESSION_TOKEN="x",
        OP_CONNECT_TOKEN="eyJx",
        VAULT_TOKEN="x",
        VAULT_SECRET_ID="x",
        HIDDEN_VALUE="canary",
        KEYS_LOGIN="canary",
        OF_THE_CACHE="a passphrase",
        HARMLESS="stays",
    )  # fmt: skip


def test_a_launched_command_has_a_credential_that_the_broker_believes(settings: Settings, report: Any) -> None:
    """The token verifies against issuers.yaml and says what the options said; the broker's real keys are pinned."""
    run = RunCredential.from_json(json.dumps(report["run"]))
    configuration = load_configuration(settings.config_dir)
    identity = TokenVerifier(configuration.anchors).verify(run.token, time.time_ns() // 1_000_000)
    assert (identity.agent_id, identity.run_id, identity.task) == ("claude", "run-7", "ticket 12")
    assert identity.expires_at - identity.issued_at == 600_000
    assert identity.in_scope("openai.api_key")
    assert not identity.in_scope("github.token")
    assert identity.run_public_key == run.run_public_key
    keys = load_broker_keys(settings.keys_dir)
    assert (run.broker, run.intake) == (keys.identity_public, keys.intake[0].public)


def test_the_command_reaches_the_queue_as_its_agent_only(report: Any) -> None:
    """User and password of REDIS_URL, wherever they stood in it, are replaced by the agent's own."""
    url = report["run"]["queue_url"]
    assert url.startswith("redis://agent-claude:")
    assert url.endswith("@queue:6379/3")
    assert "hunter" not in url


def test_nothing_of_the_brokers_environment_reaches_the_command(report: Any) -> None:
    """Neither its settings, nor what vaults, programs and the cache need, nor values of env://; the rest stays."""
    environ = report["environ"]
    assert set(environ) - {"PATH", "LC_CTYPE", "HARMLESS"} == {"SECRET_BROKER_CREDENTIAL_FD"}
    assert environ["HARMLESS"] == "stays"


def test_the_command_inherits_the_one_descriptor_and_no_other(report: Any) -> None:
    """No key file, no pipe's other end."""
    number = int(report["environ"]["SECRET_BROKER_CREDENTIAL_FD"])
    assert report["descriptors"] == [0, 1, 2, number]


def test_arguments_after_the_command_are_the_commands(report: Any) -> None:
    """Options that look like ours are not taken away."""
    assert report["argv"] == ["--agent", "x", "--"]


def test_the_command_takes_over_process_streams_signals_and_exit_code(settings: Settings) -> None:
    """It has the launcher's pid, reads its input, and a signal ends it and nobody else."""
    code = "import os, signal, sys; print(os.getpid(), sys.stdin.readline(), flush=True); signal.pause()"
    process = subprocess.Popen(
        _command(settings, "--agent", "claude", sys.executable, "-c", code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"{process.pid} hello\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -PIPE $$"], -signal.SIGPIPE, ""),  # Python ignores it; the command does not inherit that
        (["no-such-command-anywhere"], 127, "error: no-such-command-anywhere: command not found\n"),
        (["/"], 126, "error: /: Permission denied\n"),
    ],
)
def test_the_exit_code_is_the_commands_or_says_why_there_is_none(
    settings: Settings, command: list[str], code: int, message: str
) -> None:
    """As with env and nohup."""
    done = subprocess.run(
        _command(settings, "--agent", "claude", "--", *command),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, message)


def test_closed_standard_streams_are_not_mistaken_for_the_credential(settings: Settings) -> None:
    """A descriptor number below 3 is never handed over."""
    line = " ".join(f"'{part}'" for part in _command(settings, "--agent", "claude", "--", "sh", "-c"))
    done = subprocess.run(
        ["sh", "-c", f"{line} 'echo $SECRET_BROKER_CREDENTIAL_FD' <&-"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert int(done.stdout) > 2


def test_a_credential_file_is_private_and_replaces_only_a_credential(settings: Settings, tmp_path: Path) -> None:
    """Written without a command, renewed in place, and no other file is ever overwritten."""
    path = tmp_path / "run.json"
    for _ in range(2):
        done = _invoke(settings, "--agent", "claude", "--run", "run-1", "--credential-file", str(path))
        assert done.exit_code == 0, done.output
    assert "claude, run run-1, until 2" in done.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert RunCredential.load({"SECRET_BROKER_CREDENTIAL_FILE": str(path)}).run_id == "run-1"
    path.write_text("my notes")
    done = _invoke(settings, "--agent", "claude", "--credential-file", str(path))
    assert done.exit_code == 7
    assert "exists and is no credential: it is not replaced" in done.output
    assert path.read_text() == "my notes"


def test_a_command_finds_its_credential_file(settings: Settings, tmp_path: Path) -> None:
    """With --credential-file the variable names the file and there is no descriptor."""
    report = _launch(settings, "--agent", "codex", "--credential-file", str(tmp_path / "run.json"))
    assert report["environ"]["SECRET_BROKER_CREDENTIAL_FILE"] == str(tmp_path / "run.json")
    assert "SECRET_BROKER_CREDENTIAL_FD" not in report["environ"]
    assert report["run"]["agent_id"] == "codex"
    assert report["run"]["queue_url"].startswith("unix://agent-codex:")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--agent", "claude"], 2, "say what to start: secret-broker launch --agent ID -- COMMAND"),
        (["--", "true"], 2, "Missing option '--agent'"),
        (["--agent", "claud", "true"], 7, "does not know the agent 'claud', so"),
        (["--agent", "claud", "true"], 7, "it would get nothing\nhint: did you mean 'claude'?"),
        (["--agent", "zzz", "true"], 7, "hint: write it under `agents:` in policy.yaml"),
        (["--agent", "claude", "--ttl", "soon", "true"], 2, "expected a number and its unit, such as 90s, 10m, 8h"),
        (["--agent", "claude", "--ttl", "365d", "true"], 7, "may sign for 28800 s at most; asked for 31536000 s"),
        (["--agent", "claude", "--run", "My Run", "true"], 2, "run id 'My Run' is not in canonical form"),
        (["--agent", "claude", "--run", "static-x", "true"], 2, "begin with `static-` are those of static tokens"),
        (["--agent", "claude", "--scope", "Open AI", "true"], 2, "this secret-name pattern is not valid"),
        (["--agent", "claude", "--task", "x\x1by", "true"], 2, "a task is a printable text"),
    ],
)  # fmt: skip
def test_a_run_that_the_broker_would_not_serve_is_not_started(
    settings: Settings, arguments: list[str], code: int, expected: str
) -> None:
    """The error says what is wrong and what to do, before anything is started."""
    done = _invoke(settings, *arguments)
    assert done.exit_code == code
    assert expected in done.output


@pytest.fixture
def issuers(settings: Settings) -> Iterator[Path]:
    path = settings.config_dir / "issuers.yaml"
    text = path.read_text()
    yield path
    path.write_text(text)


def _issuers(public_key: str, **more: object) -> str:
    entry = {"name": "local", "public_key": public_key, **more}
    return json.dumps({"issuers": [entry]})


def test_an_issuer_that_is_not_trusted_for_the_agent_mints_nothing(settings: Settings, issuers: Path) -> None:
    """Both ways of not being trusted have an error of their own."""
    anchor = load_configuration(settings.config_dir).anchors[0]
    issuers.write_text(_issuers(anchor.public_key.hex(), agents=["codex"]))
    with pytest.raises(SetupError, match="does not let the issuer 'local' speak for the agent 'claude'"):
        mint_run(settings, load_configuration(settings.config_dir), RunOrder("claude"))
    issuers.write_text(_issuers(load_broker_keys(settings.keys_dir).identity_public.hex(), all_agents="true"))
    with pytest.raises(SetupError, match=r"does not list the public half of keys/issuer\.key"):
        mint_run(settings, load_configuration(settings.config_dir), RunOrder("claude"))


def test_an_hour_is_the_default_unless_the_issuer_may_sign_for_less(settings: Settings, issuers: Path) -> None:
    """The default never fails on the issuer's own limit."""
    configuration = load_configuration(settings.config_dir)
    now = time.time_ns() // 1_000_000
    hour = mint_run(settings, configuration, RunOrder("claude")).expires_at - now
    assert timedelta(minutes=59) < timedelta(milliseconds=hour) <= timedelta(hours=1)
    issuers.write_text(_issuers(configuration.anchors[0].public_key.hex(), all_agents="true", max_lifetime="5m"))
    short = mint_run(settings, load_configuration(settings.config_dir), RunOrder("claude")).expires_at - now
    assert timedelta(milliseconds=short) <= timedelta(minutes=5, seconds=30)
