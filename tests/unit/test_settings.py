"""Settings: where an installation lives and which queue it uses."""

from pathlib import Path

import pytest

from broker_worker.core.errors import SetupError
from broker_worker.settings import Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test without variables of the machine it runs on."""
    for name in ("SECRET_BROKER_HOME", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_default_home_is_the_users_data_folder() -> None:
    """Without a variable the home lies in the user's own data folder."""
    assert Settings.load().home.name == "secret-broker"


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SECRET_BROKER_HOME names the home."""
    monkeypatch.setenv("SECRET_BROKER_HOME", str(tmp_path))
    assert Settings.load().home == tmp_path


def test_argument_wins_over_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home given on the command line wins over the environment."""
    monkeypatch.setenv("SECRET_BROKER_HOME", "/elsewhere")
    assert Settings.load(tmp_path).home == tmp_path


def test_relative_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative home means the same after the process changed its folder."""
    monkeypatch.chdir(tmp_path)
    assert Settings.load(Path("state")).home == tmp_path / "state"


def test_every_place_lies_in_the_home(tmp_path: Path) -> None:
    """All folders of an installation lie below its home."""
    settings = Settings.load(tmp_path)
    places = (settings.config_dir, settings.keys_dir, settings.audit_dir, settings.vault_file, settings.socket_path)
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_embedded_server_is_the_default_queue(tmp_path: Path) -> None:
    """Without REDIS_URL the queue is the socket in the home."""
    assert Settings.load(tmp_path).queue_address == f"unix://{tmp_path}/run/valkey.sock"


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://u:p@h", "unix:///run/valkey.sock"])
def test_redis_url_is_the_queue(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """REDIS_URL is used as it stands."""
    monkeypatch.setenv("REDIS_URL", url)
    assert Settings.load().queue_address == url


def test_empty_redis_url_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty REDIS_URL, as compose files make them, means the embedded server."""
    monkeypatch.setenv("REDIS_URL", "")
    assert Settings.load().redis_url is None


def test_unknown_scheme_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A REDIS_URL that is none is refused, and the password in it is nowhere in the error."""
    monkeypatch.setenv("REDIS_URL", "http://user:hunter2@host")
    with pytest.raises(SetupError, match="REDIS_URL: expected a URL that begins with redis://") as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_repr_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings object that is logged does not show the queue's password."""
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@host")
    assert "hunter2" not in repr(Settings.load())
