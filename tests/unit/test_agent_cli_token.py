"""`secret-agent token`: the run's token for programs, and not for eyes."""

import sys
from pathlib import Path

import pytest

from agent_sdk.cli import main
from agent_sdk.testing import FakeDesk


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command as its own process would; exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, prog_name="secret-agent")
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of the run that this process then is."""
    credential = FakeDesk().credential("claude")
    file = tmp_path / "credential"
    file.touch(mode=0o600)
    file.write_text(credential.to_json())
    monkeypatch.setenv("SECRET_BROKER_CREDENTIAL_FILE", str(file))
    return credential.token


def test_into_a_pipe(token: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads it gets the token and a line end."""
    assert printed(["token"], capsys) == (0, token + "\n", "")


def test_on_a_terminal(token: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it is shown only if that is asked for; else it says what to do instead."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = printed(["token"], capsys)
    assert (code, out) == (2, "")
    assert "hint: use it in place" in err
    assert token not in err
    assert printed(["token", "--force"], capsys)[:2] == (0, token + "\n")


def test_without_a_credential(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a run it says how to start one."""
    monkeypatch.delenv("SECRET_BROKER_CREDENTIAL_FILE", raising=False)
    code, out, err = printed(["token"], capsys)
    assert (code, out) == (7, "")
    assert "secret-broker launch" in err
