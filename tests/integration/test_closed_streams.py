"""Commands that are started without standard input or output (`<&-`, `>&-`): what they cannot do, they say."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from agent_workbench import AGENT, KEY, LONG, ROOT, AgentHouse

from broker_worker.cli.init import create_installation
from broker_worker.settings import Settings

BROKER = (sys.executable, "-m", "broker_worker.cli")


def without(
    stream: str, command: tuple[str, ...], environ: Mapping[str, str], given: bytes = b""
) -> tuple[int, bytes, str]:
    """Run a command without a stream, `<&-` or `>&-`: exit code, output, errors."""
    shell = ["sh", "-c", f'"$@" {stream}', "sh", *command]
    done = subprocess.run(shell, env=dict(environ), input=given, capture_output=True, timeout=3 * LONG, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "a.key"),
        ("get", "a.key", "-o", "-"),
        ("inject", "-i", "TEMPLATE", "-o", "-"),
        ("aws-credentials", "--secret", "a.key"),
        ("token",),
        ("headers",),
    ],
)
def test_what_would_be_written_nowhere_is_not_asked_for(
    agent_house: AgentHouse, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """One line says what is missing, one what to do; nothing is released for nobody."""
    (tmp_path / "template").write_text("{{ secret://a.key }}")
    given = [str(tmp_path / "template") if word == "TEMPLATE" else word for word in arguments]
    code, _, err = without(">&-", (*AGENT, *given), agent_house.environ())
    assert (code, err) == (
        2,
        "error: standard output is closed, so nobody would get what is written there\n"
        "hint: leave it open, or name a file\n",
    )
    assert agent_house.desk.requests == []


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ((*AGENT, "git-credential", "--host", "x.y", "--secret", "a.key", "get"), b"protocol=https\nhost=x.y\n\n"),
        ((sys.executable, "-c", "from agent_sdk.cli.docker_credential import main; main()", "get"), b"x.y"),
    ],
)
def test_no_helper_asks_for_what_its_program_would_not_get(
    agent_house: AgentHouse, command: tuple[str, ...], given: bytes
) -> None:
    """The same for the helpers of git and Docker."""
    environ = agent_house.environ(SECRET_AGENT_DOCKER="x.y=me:a.key")
    code, _, err = without(">&-", command, environ, given)
    assert (code, err.splitlines()[:1]) == (
        2,
        ["error: standard output is closed, so nobody would get what is written there"],
    )
    assert agent_house.desk.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", "new.key"),
        ("inject", "-i", "-", "-o", "out"),
        ("git-credential", "--host", "github.com", "--secret", "a.key", "get"),
    ],
)
def test_what_cannot_be_read_is_said(agent_house: AgentHouse, arguments: tuple[str, ...]) -> None:
    """And nothing is asked for, or stored."""
    code, out, err = without("<&-", (*AGENT, *arguments), agent_house.environ())
    assert (code, out, err) == (
        2,
        b"",
        "error: standard input is closed, so there is nothing to read\nhint: pipe it in, or name a file\n",
    )
    assert agent_house.desk.requests == []


@pytest.mark.parametrize("arguments", [("get", "a.key"), ("inject", "-i", "TEMPLATE")])
def test_a_command_that_writes_a_file_needs_no_standard_streams(
    agent_house: AgentHouse, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """None of the connections that take their places is written to."""
    (tmp_path / "template").write_text("{{ secret://a.key }}")
    given = [str(tmp_path / "template") if word == "TEMPLATE" else word for word in arguments]
    for number, stream in enumerate((">&-", "<&-", "<&- >&- 2>&-")):
        written = tmp_path / f"out-{number}"
        code, _, err = without(stream, (*AGENT, *given, "-o", str(written)), agent_house.environ())
        assert (code, err, written.read_text()) == (0, "", KEY)


def test_operators_are_told_the_same(tmp_path: Path) -> None:
    """A value is asked for only where it can be given, and a token is made only where it can be printed."""
    home = tmp_path / "home"
    create_installation(Settings(home=home), "local", 0)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SECRET_BROKER_HOME": str(home)}
    code, _, err = without("<&-", (*BROKER, "vault", "set", "openai.api_key"), environ)
    assert (code, err.splitlines()[0]) == (2, "error: standard input is closed, so there is nothing to read")
    issue = (*BROKER, "tokens", "issue", "--agent", "claude", "--ttl", "1d")
    code, _, err = without(">&-", issue, environ)
    assert (code, err.splitlines()[0]) == (
        2,
        "error: standard output is closed, so nobody would get what is written there",
    )
    assert not (home / "config" / "tokens.yaml").exists()
