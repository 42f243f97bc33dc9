"""`secret-broker acl` and `secret-broker keys`: what an external server and an orchestrator need to know."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from broker_worker.cli import main
from broker_worker.cli.init import create_installation
from broker_worker.files.keys import QUEUE, load_broker_keys, load_seed
from broker_worker.queue.acl import agent_url, render_acl
from broker_worker.settings import Settings

NOW = 1_800_000_000_000


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A new installation."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings.load(tmp_path / "home")
    create_installation(settings, "env", NOW)
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    """Run a command on the installation."""
    return CliRunner().invoke(main, ["--home", str(settings.home), *arguments])


def test_acl_prints_the_users_of_the_policy(settings: Settings) -> None:
    """The file names every agent of the policy and nothing of the queue key."""
    shown = run(settings, "acl").stdout
    agents = ["claude", "codex", "grok", "random-script"]
    assert shown == render_acl(load_seed(settings.keys_dir / QUEUE), agents)


def test_acl_file_is_private(settings: Settings, tmp_path: Path) -> None:
    """A file that is written has mode 0600."""
    assert run(settings, "acl", "--output", str(tmp_path / "users.acl")).exit_code == 0
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "users.acl").stat().st_mode) == 0o600


def test_url_is_for_that_agent_alone(settings: Settings) -> None:
    """An orchestrator gets the queue's URL with the agent's own user and password."""
    expected = agent_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE), "claude")
    assert run(settings, "acl", "--url", "claude").stdout == f"{expected}\n"


@pytest.mark.parametrize("agent", ["nobody", "Claude", "*"])
def test_url_of_an_unknown_agent_is_a_usage_error(settings: Settings, agent: str) -> None:
    """There is no URL for an agent that the policy does not have."""
    assert run(settings, "acl", "--url", agent).exit_code == 2


def test_acl_apply_needs_an_external_server(settings: Settings) -> None:
    """Without REDIS_URL there is nothing to apply to."""
    result = run(settings, "acl", "--apply")
    assert result.exit_code == 7
    assert "REDIS_URL is not set" in result.stderr


def test_acl_apply_lets_agents_in(settings: Settings, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After --apply an agent's user works on the server of REDIS_URL."""
    monkeypatch.setenv("REDIS_URL", valkey_url)
    try:
        assert run(settings, "acl", "--apply").stdout == "set the users of 4 agents\n"
        with Redis.from_url(agent_url(valkey_url, load_seed(settings.keys_dir / QUEUE), "claude")) as client:
            assert client.ping()
    finally:
        with Redis.from_url(valkey_url) as client:
            users = [user for user in client.acl_users() if user != "default"]
            client.acl_deluser(*users)


def test_keys_show_prints_public_halves_only(settings: Settings) -> None:
    """The public halves are those of the key files, and no private one is shown."""
    keys = load_broker_keys(settings.keys_dir)
    result = run(settings, "keys", "show", "--json")
    shown = json.loads(result.stdout)
    assert set(shown) == {"broker", "intake", "issuer"}
    private = [path.read_text().split(":")[-1].strip() for path in settings.keys_dir.rglob("*.key")]
    assert not any(secret in result.output for secret in private)
    assert keys.intake[0].key_id.hex() in run(settings, "keys", "show").stdout


def test_rotation_keeps_the_old_key_for_the_longest_run(settings: Settings) -> None:
    """Without --overlap the old key stays as long as an issuer lets a run live."""
    old = load_broker_keys(settings.keys_dir).intake[0]
    result = run(settings, "keys", "rotate")
    assert "after 8:00:00" in result.stdout
    assert old in load_broker_keys(settings.keys_dir).intake


def test_rotation_takes_an_overlap(settings: Settings) -> None:
    """--overlap is taken as it is written."""
    assert "after 0:10:00" in run(settings, "keys", "rotate", "--overlap", "10m").stdout


def test_overlap_that_is_no_duration_is_a_usage_error(settings: Settings) -> None:
    """A duration that is not understood changes no key."""
    before = load_broker_keys(settings.keys_dir)
    assert run(settings, "keys", "rotate", "--overlap", "soon").exit_code == 2
    assert load_broker_keys(settings.keys_dir) == before


def test_leaked_key_can_be_destroyed_at_once(settings: Settings) -> None:
    """--destroy-old leaves the new key alone."""
    old = load_broker_keys(settings.keys_dir).intake[0]
    assert "0 older" in run(settings, "keys", "rotate", "--destroy-old").stdout
    assert old not in load_broker_keys(settings.keys_dir).intake
