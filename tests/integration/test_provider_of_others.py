"""The example of a provider of one's own: it keeps the contract, and real `secret-broker` processes find and use it."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker_home import COMMAND, Home, Processes, server_of
from installed_packages import install, install_example
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.policy import Origin
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers

AROUND = Surroundings(Path("/v"), Path("/k"), lambda path: bytes(32), {}, lambda: 0)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which the example is installed."""
    install_example(tmp_path / "site")
    return tmp_path / "site"


class TestMounted(ProviderConformance):
    """The example, found through its entry point."""

    @pytest.fixture
    async def subject(self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
        """A provider over a folder with 503 files."""
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "broker_mounted", raising=False)
        folder = tmp_path / "secrets"
        values = {f"mounted://entry-{i}": f"{CANARY}-{i}".encode() for i in range(500)}
        stored = {ref.removeprefix("mounted://"): value for ref, value in values.items()}
        stored |= {"largest": b"x" * MAX_VALUE, "larger": b"x" * (MAX_VALUE + 1), "binary": BINARY}
        folder.mkdir()
        for name, value in stored.items():
            (folder / name).write_bytes(value)
        section = ProviderSettings("mounted", {"folder": str(folder)}, Origin("broker.yaml", 1))
        provider = make_providers([section], AROUND)["mounted"]
        yield Subject(
            provider,
            values,
            unknown="mounted://nothing",
            malformed=("mounted://", "mounted://../x", "mounted://a/b", "mounted://-x", "env://X", "entry-1"),
            largest="mounted://largest",
            too_large="mounted://larger",
            binary="mounted://binary",
            break_vault=lambda: shutil.rmtree(folder),
        )
        await provider.close()


@pytest.fixture
def mounted(processes: Processes, embedded_home: Home, site: Path) -> Path:
    """An installation whose one secret is a mounted file; what is in `site` is installed for its processes."""
    folder = embedded_home.settings.home / "mounted"
    folder.mkdir()
    (folder / "openai").write_text("value of openai")
    embedded_home.write(**files(folder))
    processes.environ["PYTHONPATH"] = f"{site}:{processes.environ.get('PYTHONPATH', '')}"
    return folder


def files(folder: Path, reference: str = "mounted://openai") -> dict[str, Any]:
    """The operator's files."""
    return {
        "broker": f"provider: {{type: mounted, folder: {folder}}}",
        "registry": f'secrets: {{openai.api_key: "{reference}"}}',
        "policy": "agents: {claude: {allow: [openai.api_key]}}",
    }


def said(processes: Processes, home: Home, *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    command = [*COMMAND, "--home", str(home.settings.home), *arguments]
    done = subprocess.run(command, env=processes.environ, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_an_agent_gets_a_value_of_an_installed_provider(
    processes: Processes, embedded_home: Home, mounted: Path
) -> None:
    """A worker process finds the package by its entry point and serves; the audit says which provider it was."""
    with server_of(embedded_home):
        await embedded_home.set_users()
        await processes.start_worker("worker-1")
        async with embedded_home.client() as client:
            assert (await client.get("openai.api_key", purpose="try the example")).reveal() == "value of openai"
    (access,) = embedded_home.records("access")
    assert access.provider == "mounted"


def test_doctor_and_policy_check_know_the_package(processes: Processes, embedded_home: Home, mounted: Path) -> None:
    """They say that all is well, which reference cannot be meant, and that a package has gone."""
    assert "provider mounted: the folder is there" in said(processes, embedded_home, "doctor", "--only", "provider")[1]
    assert said(processes, embedded_home, "policy", "check")[0] == 0

    embedded_home.write(**files(mounted, "mounted://../etc/passwd"))
    code, text = said(processes, embedded_home, "policy", "check")
    assert code == 3
    assert "secrets.yaml:1: secret `openai.api_key`: the reference is not of the form mounted://NAME" in text
    assert "passwd" not in text

    del processes.environ["PYTHONPATH"]
    code, text = said(processes, embedded_home, "policy", "check")
    assert code == 3
    assert "broker.yaml:1: provider mounted: there is no such type" in text


def test_a_broken_package_costs_only_what_needs_it(
    processes: Processes, embedded_home: Home, mounted: Path, site: Path
) -> None:
    """Doctor names it and still examines the others; commands that need no vault work without it."""
    install(site, "broker-broken", {"broken": "broker_broken:KIND"}, broker_broken="raise RuntimeError('canary')")
    embedded_home.write(
        **{**files(mounted), "broker": f"providers:\n- type: broken\n- {{type: mounted, folder: {mounted}}}"}
    )
    code, text = said(processes, embedded_home, "doctor", "--only", "provider")
    assert code == 1
    assert "broker-broken 1.0 cannot be loaded: RuntimeError" in text
    assert "provider mounted: the folder is there" in text
    assert "canary" not in text
    explain = ("policy", "explain", "--agent", "claude", "--secret", "openai.api_key")
    assert said(processes, embedded_home, *explain)[0] == 0
