"""`secret-agent mcp` on the command line: what cannot be meant is one error line, before anything is served."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_sdk.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--http"], "error: --http needs --token-file PATH: other users of this host could use the server otherwise"),
        (["--token-file", "x"], "error: --token-file goes with --http"),
        (["--egress-audience", "x"], "error: --egress-audience goes with --egress-url"),
        (["--egress-url", "http://example.org"], "error: --egress-url must be https://HOST, or http:// on this host"),
        (["--egress-url", "http://u:p@127.0.0.1"], "error: --egress-url must be"),
        (["--egress-url", "file:///etc/passwd"], "error: --egress-url must be"),
        (["--dashboard-url", "https://desk.example/#x"], "error: --dashboard-url must be"),
        (["--dashboard-url", "http://[::1"], "error: --dashboard-url must be"),
        (["--allow-command", "no-such-program"], "error: --allow-command names no-such-program"),
        (["--root", "/no/such/folder"], "does not exist"),
    ],
)
def test_options_that_cannot_be_meant(arguments: list[str], told: str) -> None:
    """Exit code 2, and what was expected."""
    result = CliRunner().invoke(main, ["mcp", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr


def test_a_run_without_a_credential_is_told_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 7, as of every command of the agent's."""
    for form in ("", "_FD", "_FILE"):
        monkeypatch.delenv(f"SECRET_BROKER_CREDENTIAL{form}", raising=False)
    result = CliRunner().invoke(main, ["mcp"])
    assert result.exit_code == 7
    assert "hint: start it with `secret-broker launch" in result.stderr


def test_where_the_package_is_not_installed_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The extra is named."""
    monkeypatch.setattr("agent_sdk.cli.mcp.find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["mcp"])
    assert result.exit_code == 2
    assert "install secret-broker with its extra `mcp`" in result.stderr
