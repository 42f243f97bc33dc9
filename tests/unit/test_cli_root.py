"""The command line's shell: errors as one line and a hint, stable exit codes, logs that hold no foreign text."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import click
import pytest
import structlog
from click.testing import CliRunner
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.errors import WireError
from broker_worker.cli import main
from broker_worker.cli.log import configure_logging
from broker_worker.cli.root import BrokerGroup
from broker_worker.core.errors import (
    AuditError,
    BrokerError,
    ConfigError,
    FailureKind,
    ProviderError,
    QueueError,
    SetupError,
)


def run_failing(error: BaseException, *arguments: str) -> tuple[int, str]:
    """Run a command that raises `error` and return its exit code and what it wrote to stderr."""

    @click.group(cls=BrokerGroup)
    @click.option("--debug", is_flag=True)
    def group(debug: bool) -> None:
        pass

    @group.command()
    def explode() -> None:
        raise error

    result = CliRunner().invoke(group, [*arguments, "explode"])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokerError("x"), 1),
        (WireError("x"), 2),
        (ConfigError("x", file="policy.yaml", line=3), 3),
        (QueueError("x"), 4),
        (RedisConnectionError("x"), 4),
        (ProviderError(FailureKind.TIMEOUT, "x"), 5),
        (AuditError("x"), 6),
        (SetupError("x"), 7),
        (PermissionError(13, "Permission denied", "/etc/x"), 7),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """A script can tell what kind of thing went wrong from the exit code."""
    assert run_failing(error)[0] == code


@pytest.mark.parametrize(
    ("answer", "code"), [(KeyboardInterrupt(), 130), (EOFError(), 1), ("n", 1)], ids=["Ctrl-C", "Ctrl-D", "no"]
)
def test_ctrl_c_at_a_question_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, answer: BaseException | str, code: int
) -> None:
    """A script tells it from an answer that was no, or from none."""

    @click.group(cls=BrokerGroup)
    def group() -> None:
        pass

    @group.command()
    def ask() -> None:
        monkeypatch.setattr("click.termui.visible_prompt_func", Mock(side_effect=[answer]))
        click.confirm("Remove it?", abort=True, err=True)

    result = CliRunner().invoke(group, ["ask"])
    assert (result.exit_code, "interrupted" in result.stderr) == (code, code == 130)


def test_error_is_one_line_and_a_hint() -> None:
    """People see what was found and what to do, without a traceback."""
    assert run_failing(SetupError("no keys", hint="run init"))[1] == "error: no keys\nhint: run init\n"


def test_error_without_hint_is_one_line() -> None:
    """No empty hint is shown."""
    assert run_failing(QueueError("gone"))[1] == "error: gone\n"


def test_unexpected_error_shows_only_its_type() -> None:
    """The text of an exception that nobody expected may hold a value, so it is not shown."""
    code, shown = run_failing(ValueError("sk-live-canary"))
    assert code == 1
    assert "unexpected ValueError" in shown
    assert "canary" not in shown


def test_debug_shows_the_calls_but_not_the_text() -> None:
    """--debug shows where it happened, still without the exception's text."""
    _, shown = run_failing(ValueError("sk-live-canary"), "--debug")
    assert "in explode" in shown
    assert "canary" not in shown


def test_control_characters_are_made_visible() -> None:
    """A server's or file's text cannot move the cursor or forge a second line."""
    assert printable("a\x1b[2J\nerror: b\u202e") == "a\\x1b[2J\\nerror: b\\u202e"


def test_unknown_command_is_a_usage_error() -> None:
    """A command that does not exist ends with exit code 2."""
    assert CliRunner().invoke(main, ["frobnicate"]).exit_code == 2


def test_help_documents_the_exit_codes() -> None:
    """The exit codes stand in --help."""
    shown = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "3 configuration, 4 queue, 5 vault, 6 audit, 7 set-up" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_us(shell: str) -> None:
    """The script for each shell asks our own command for completions."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_SECRET_BROKER_COMPLETE" in result.stdout


def test_installed_command_runs() -> None:
    """The console script answers --version."""
    result = subprocess.run(
        [sys.executable, "-m", "broker_worker.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.startswith("secret-broker")) == (0, True)


@pytest.fixture
def json_logs() -> Iterator[None]:
    """Log JSON during the test."""
    configure_logging(as_json=True)
    yield
    structlog.reset_defaults()


def fail_with_a_cause() -> None:
    """Raise an exception whose text, and whose cause's text, is a canary."""
    try:
        os.environ["SK_LIVE_CANARY"]
    except KeyError as cause:
        raise RuntimeError("sk-live-canary") from cause


@pytest.mark.usefixtures("json_logs")
def test_foreign_exception_is_logged_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Of another library's exception, and of its cause, only type and place reach the log."""
    try:
        fail_with_a_cause()
    except RuntimeError:
        structlog.get_logger().exception("fetch_failed")
    logged = capsys.readouterr().err
    assert "canary" not in logged.lower()
    error = json.loads(logged)["error"]
    assert error.startswith("RuntimeError at ")
    assert " < KeyError at " in error


@pytest.mark.usefixtures("json_logs")
def test_own_exception_is_logged_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Our own messages hold no value and say what to do, so they are logged."""
    structlog.get_logger().warning("config_rejected", exc_info=ConfigError("no", file="policy.yaml", line=3))
    assert json.loads(capsys.readouterr().err)["error"] == "ConfigError: policy.yaml:3: no"


def test_where_only_the_agents_packages_are_installed_the_command_says_so() -> None:
    """The base package brings the script along; it ends with what to install, not with a traceback."""
    code = "import sys; sys.modules['structlog'] = None; import broker_worker.cli"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (7, "")
    assert result.stderr.splitlines() == [
        "error: this command needs the broker's packages; only those of an agent are installed",
        "hint: install secret-broker with its extra `broker`, or `all`",
    ]


def test_a_command_that_asks_no_queue_does_not_wait_for_its_client() -> None:
    """redis-py takes longer to load than the rest of such a command; an agent's client loads it when it connects."""
    modules = [f"broker_worker.cli.{name}" for name in ("init", "launch", "policy", "vault")]
    modules += [f"agent_sdk.cli.{name}" for name in ("get", "run", "scan", "whoami")]
    script = f"import sys, {', '.join(modules)}\nprint('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


def test_a_command_is_loaded_without_looking_for_garbage() -> None:
    """Nothing of it is any, and to look takes a third of the time; afterwards it is looked for as ever."""
    script = (
        "import gc\n"
        "from broker_worker.cli import main\n"
        "gc.callbacks.append(lambda *what: print(what))\n"
        "main.commands['worker']\n"
        "gc.callbacks.clear()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True True\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux that is always full")
@pytest.mark.parametrize("arguments", [("--help",), ("policy", "check", "--help")])
def test_help_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    """As everything else that cannot."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "broker_worker.cli", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (7, "error: No space left on device\n")
