"""The example of a provider of one's own: it keeps the contract, and real `secret-broker` processes find and use it."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker_home import COMMAND, Home, Processes, server_of
from click.testing import CliRunner
from desk_workbench import until
from installed_packages import install, install_example
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.cli import main
from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers

COUNT = 500
AROUND = Surroundings(Path("/v"), Path("/k"), lambda path: bytes(32), {}, lambda: 0)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which the example is installed."""
    install_example(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 503 files."""
    folder = tmp_path_factory.mktemp("stored")
    values = {f"entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)}
    values |= {"largest": b"x" * MAX_VALUE, "larger": b"x" * (MAX_VALUE + 1), "binary": BINARY}
    for name, value in values.items():
        (folder / name).write_bytes(value)
    return folder


class TestMounted(ProviderConformance):
    """The example, found through its entry point."""

    @pytest.fixture
    async def subject(
        self, site: Path, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Subject]:
        """A provider over a folder with 503 files."""
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "broker_mounted", raising=False)
        folder = tmp_path / "secrets"
        folder.symlink_to(stored)
        section = ProviderSettings("mounted", {"folder": str(folder)}, Origin("broker.yaml", 1))
        provider = make_providers([section], AROUND)["mounted"]
        yield Subject(
            provider,
            {f"mounted://entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)},
            unknown="mounted://nothing",
            malformed=("mounted://", "mounted://../x", "mounted://a/b", "mounted://-x", "env://X", "entry-1"),
            largest="mounted://largest",
            too_large="mounted://larger",
            binary="mounted://binary",
            break_vault=folder.unlink,
        )
        await provider.close()


@pytest.fixture
def mounted(processes: Processes, embedded_home: Home, site: Path) -> Path:
    """An installation whose secrets are a mounted file and what a program prints; its processes can import `site`."""
    folder = embedded_home.settings.home / "mounted"
    folder.mkdir()
    (folder / "openai").write_text("value of openai")
    embedded_home.write(**files(folder))
    processes.environ["PYTHONPATH"] = f"{site}:{processes.environ.get('PYTHONPATH', '')}"
    return folder


def files(folder: Path, reference: str = "mounted://openai", more: str = "") -> dict[str, Any]:
    """The operator's files."""
    commands = "{say: {argv: [printf, '%s', '{name}']}}"
    return {
        "broker": f"""
            providers:
            - {{type: mounted, folder: {folder}}}
            - {{type: exec, commands: {commands}}}
            {more}
        """,
        "registry": f"""
            secrets:
              openai.api_key: "{reference}"
              github.read_token: "exec://say/hello"
        """,
        "policy": "agents: {claude: {allow: [openai.api_key, github.read_token]}}",
    }


def said(processes: Processes, home: Home, *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    command = [*COMMAND, "--home", str(home.settings.home), *arguments]
    done = subprocess.run(command, env=processes.environ, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_an_agent_gets_what_an_installed_provider_and_a_program_give(
    processes: Processes, embedded_home: Home, mounted: Path
) -> None:
    """A worker process finds the package by its entry point, runs the program, and says in the audit which it was."""
    with server_of(embedded_home):
        await embedded_home.set_users()
        await processes.start_worker("worker-1")
        async with embedded_home.client() as client:
            assert (await client.get("openai.api_key", purpose="try the example")).reveal() == "value of openai"
            assert (await client.get("github.read_token", purpose="try a program")).reveal() == "hello"
    assert [record.provider for record in embedded_home.records("access")] == ["mounted", "exec"]


async def test_a_worker_takes_no_reference_that_the_package_refuses(
    home: Home, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at its start nor while it runs: the package is asked, and files are rejected with file and line."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "broker_mounted", raising=False)
    home.write(**files(tmp_path, "mounted://../etc/passwd"))
    with pytest.raises(ConfigError, match=r"secrets\.yaml:3: secret `openai\.api_key`: "):
        await home.working().__aenter__()
    home.write(**files(tmp_path))
    async with home.working(reloading=True):
        home.write(**files(tmp_path, "mounted://../etc/passwd"))
        await until(lambda: home.records("config_rejected"))
    (rejected,) = home.records("config_rejected")
    assert rejected.reason == "secrets.yaml:3"


def test_doctor_and_policy_check_name_what_is_wrong(
    processes: Processes, embedded_home: Home, mounted: Path, site: Path
) -> None:
    """A broken package costs only what needs it: others are examined, and commands that need no vault work."""
    install(site, "broker-broken", {"broken": "broker_broken:KIND"}, broker_broken="raise RuntimeError('canary')")
    embedded_home.write(**files(mounted, more="- type: broken"))
    code, text = said(processes, embedded_home, "doctor", "--only", "provider")
    assert code == 1
    assert "broker-broken 1.0 cannot be loaded: RuntimeError" in text
    assert "provider mounted: the folder is there; all 1 secrets have a value" in text
    assert "provider exec: the programs are there; commands: say; all 1 secrets have a value" in text
    assert "canary" not in text
    explain = ("policy", "explain", "--agent", "claude", "--secret", "openai.api_key")
    result = CliRunner().invoke(main, ["--home", str(embedded_home.settings.home), *explain])
    assert "allow: claude asks for openai.api_key" in result.output

    embedded_home.write(**files(mounted, "mounted://../etc/passwd"))
    code, text = said(processes, embedded_home, "policy", "check")
    assert code == 3
    assert "secrets.yaml:3: secret `openai.api_key`: the reference is not of the form mounted://NAME" in text
    assert "passwd" not in text
