"""`secret-broker egress check` and `policy check`: routes against the registry and the policy, before anything runs."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker_worker.cli import main

FILES = {
    "broker.yaml": "provider: {type: local}\n",
    "secrets.yaml": "secrets: {openai.api_key: 'local://openai.api_key'}\n",
    "issuers.yaml": "issuers: [{name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}]\n",
    "policy.yaml": "agents:\n  claude: {allow: [{secret: openai.api_key, deliver: [proxy]}]}\n"
    "  egress: {allow: [], acts_for: {agents: [claude], deliver: [proxy]}}\n",
    "egress.yaml": "egress:\n  routes:\n    openai:\n      upstream: https://api.openai.com\n"
    "      secret: openai.api_key\n      send: {header: Authorization}\n"
    "      allow: [{method: GET, path: /v1/models}]\n",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's files, of which the proxy has one."""
    monkeypatch.setenv("SECRET_BROKER_HOME", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    folder = tmp_path / "config"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def run(*arguments: str) -> Result:
    """Run `secret-broker …`."""
    return CliRunner().invoke(main, arguments)


def test_what_would_be_served_and_as_whom(config: Path) -> None:
    """A line for each route, and where and as which agent the proxy would run."""
    result = run("egress", "check")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "openai: https://api.openai.com with openai.api_key, 1 allowed",
        f"{config}/egress.yaml: valid, 1 route at http://127.0.0.1:7720, as the agent egress",
    ]


@pytest.mark.parametrize("command", [("egress", "check"), ("policy", "check")])
def test_a_secret_that_nobody_knows(config: Path, command: tuple[str, str]) -> None:
    """Both commands say file and line, and what was probably meant."""
    file = config / "egress.yaml"
    file.write_text(file.read_text().replace("openai.api_key", "openai.api_keys"))
    result = run(*command)
    assert result.exit_code == 3
    assert result.stderr == (
        f"error: {file}:5: `secret`: the registry has no secret `openai.api_keys`\n"
        "hint: did you mean `openai.api_key`?\n"
    )


def test_nobody_may_act_for_others(config: Path) -> None:
    """Without an agent that may ask on behalf of runs the proxy could do nothing; the hint is what to write."""
    file = config / "policy.yaml"
    file.write_text(file.read_text().partition("  egress:")[0])
    result = run("egress", "check")
    assert result.exit_code == 7
    assert "hint: write below `agents:` in policy.yaml: egress: {allow: []" in result.stderr


def test_doctor_says_whether_the_routes_could_be_served(config: Path) -> None:
    """Doctor has a line for the proxy where there is a file of routes, and none where there is not."""
    (config.parent / "keys").mkdir(mode=0o700)
    arguments = ("doctor", "--only", "egress")
    assert "egress: routes: 1, as the agent egress" in run(*arguments).output
    file = config / "egress.yaml"
    file.write_text(file.read_text().replace("https:", "http:"))
    result = run(*arguments)
    assert (result.exit_code, "egress.yaml:4: `upstream`: a secret would leave" in result.output) == (1, True)
    file.unlink()
    assert "egress" not in run(*arguments).output


def test_the_proxy_needs_a_run_of_its_own(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started without a credential, it says how to start it."""
    for name in ("", "_FD", "_FILE"):
        monkeypatch.delenv(f"SECRET_BROKER_CREDENTIAL{name}", raising=False)
    monkeypatch.setattr("broker_worker.cli.egress.harden", lambda: None)
    result = run("egress", "--port", "0")
    assert result.exit_code == 7
    assert "secret-broker launch --agent egress" in result.stderr
