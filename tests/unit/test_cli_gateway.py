"""`secret-broker gateway`: where it listens, and that it does not start without a run of its own."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from desk_workbench import write_files

from agent_sdk.credential import DESCRIPTOR_VARIABLE, FILE_VARIABLE, TEXT_VARIABLE
from broker_worker.cli import gateway as gateway_module
from broker_worker.cli import main
from broker_worker.cli.gateway import ADDRESS_VARIABLE, _address
from broker_worker.core.configuration import ServerSettings
from broker_worker.core.errors import ConfigError
from broker_worker.settings import Settings


def test_the_files_say_where_it_listens_unless_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` and --port tell it, and then no file of the operator's is read or need be there."""
    settings = Settings(home=tmp_path)
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    with pytest.raises(ConfigError):
        _address(settings, None)
    assert _address(settings, 7) == ServerSettings("127.0.0.1", 7)
    write_files(settings.config_dir, broker="{provider: {type: local}, server: {host: localhost, port: 8}}")
    assert _address(settings, None) == ServerSettings("localhost", 8)
    monkeypatch.setenv(ADDRESS_VARIABLE, "::1 9")
    assert _address(settings, None) == ServerSettings("::1", 9)


def test_without_a_credential_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a run as any other, and mints none by itself."""
    for name in (DESCRIPTOR_VARIABLE, FILE_VARIABLE, TEXT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gateway_module, "harden", lambda: None)
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "gateway", "--port", "0"])
    assert result.exit_code == 7
    assert "error: the gateway was handed no credential of a run" in result.stderr
    assert "hint: `secret-broker up` gives it one" in result.stderr
