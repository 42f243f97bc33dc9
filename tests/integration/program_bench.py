"""Other people's programs beside a real broker: our commands on their PATH, a home of their own, the documents' lines.

A program is started with nothing of this process's environment but where programs and Python's modules are, so it has
no login but what the test gives it, and reaches nobody but the stand-ins of this host.
"""

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from broker_home import Home
from desk_workbench import LONG
from egress_upstream import Authority, Upstream
from fake_vault import FakeVault

from agent_sdk.credential import FILE_VARIABLE
from broker_worker.egress.serving import Egress

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "secret-agent": "-m agent_sdk.cli",
    "secret-broker": "-m broker_worker.cli",
    "docker-credential-secret-agent": '-c "from agent_sdk.cli.docker_credential import main; main()"',
}
POLICY = """
    agents:
      claude:
        allow: [openai.api_key, anthropic.api_key, github.read_token, github.packages_token, deploy.ssh_key, aws.deploy]
      codex:
        allow: [github.read_token]
      copilot:
        allow: [github.read_token]
      guest:
        allow:
          - {pattern: "*.api_key", deliver: [proxy]}
          - {secret: github.read_token, deliver: [proxy]}
      egress:
        allow: []
        acts_for: {agents: [guest], deliver: [proxy], audience: "http://127.0.0.1:7720"}
"""
NAMES = (
    "openai.api_key",
    "anthropic.api_key",
    "github.read_token",
    "github.packages_token",
)
REGISTRY = {"secrets": {name: f"local://{name}" for name in (*NAMES, "aws.deploy", "deploy.ssh_key")}}
KEY = "sk-canary-4fJ8qLx2Zt7wRb9Kd3Vn6Yp1"
"""What every value begins with."""

PATTERN = "GH_TOKEN=secret://github.* gh pr **"
LOOK = {"argv": ["gh", "pr", "list"], "env": {"GH_TOKEN": "secret://github.read_token"}, "purpose": "look"}
"""What a model asks `run_command` for."""


def program(name: str) -> str:
    """Where a program is; skips the test where it is not installed. `.ci/run` says how it comes there."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not on the PATH")
    return found


def documented(page: str, place: str, language: str) -> str:
    """The first block of code after a place in a page, as a reader copies it.

    Args:
        page: below docs/.
        place: a heading, or other words that stand there once.
        language: the block's own; "`" for code within a line.
    """
    _, *after = (ROOT / "docs" / page).read_text().split(place)
    assert len(after) == 1, f"{page}: {place}"
    pattern = "`(.*?)`" if language == "`" else rf"```{language}\n(.*?)```"
    (found,) = re.findall(pattern, after[0], re.DOTALL)[:1]
    return str(found)


def value(name: str) -> str:
    """What a secret's value is."""
    return f"{KEY}-{name}"


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    output: str
    errors: str


@dataclass
class Bench:
    """What a program finds on its host.

    Args:
        home: the broker's installation.
        folder: the program's home, and its work below.
        vault: what the broker's secrets are.
        environ: all that it is started with.
    """

    home: Home
    folder: Path
    vault: FakeVault
    environ: dict[str, str] = field(repr=False)

    @property
    def work(self) -> Path:
        """The folder that programs are started in."""
        return self.folder / "work"

    def lend(self, agent: str = "claude") -> None:
        """Have programs run in a fresh run of an agent, as `launch --credential-file` would."""
        path = self.folder.parent / "credential.json"
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(self.home.credential(agent).to_json())
        self.environ[FILE_VARIABLE] = str(path)

    def command(self, name: str, script: str) -> None:
        """Put a command on the PATH, before all others."""
        path = self.folder.parent / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def write(self, path: str, text: str) -> Path:
        """Write a file below the program's home."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    async def run(self, *command: str, given: str = "", **environ: str) -> Done:
        """Run a program to its end; it and all that it started are ended if it takes too long."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.work,
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(given.encode()), LONG * 2)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = await process.communicate()
            pytest.fail(f"{command} did not end: {output!r} {errors!r}")
        return Done(process.returncode or 0, output.decode(), errors.decode())

    def traces(self, value: str = KEY) -> list[str]:
        """The files that a program left in its home, or beside it, in which a value stands in a usual spelling."""
        assert any(self.folder.rglob("*"))
        found = spellings(value)
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return [str(path) for path in files if any(each in path.read_bytes() for each in found)]

    def asked(self) -> list[tuple[str, str, str | None]]:
        """What runs asked the broker for: agent, secret, purpose."""
        return [(each.agent_id or "", each.secret_name or "", each.purpose) for each in self.home.records("access")]


def spellings(value: str) -> list[bytes]:
    """A value plainly, in hexadecimal, and in base64 wherever it begins."""
    raw = value.encode()
    coded = [base64.b64encode(bytes(offset) + raw)[-(-offset * 4 // 3) + 1 : -4] for offset in range(3)]
    return [raw, raw.hex().encode(), *coded]


@pytest.fixture
async def programs(home: Home, tmp_path: Path) -> AsyncIterator[Bench]:
    """A broker at work, and a program's home whose PATH has our commands."""
    home.write(policy=POLICY, registry=json.dumps(REGISTRY))
    vault = FakeVault({f"local://{name}": value(name).encode() for name in NAMES})
    async with home.working(vault):
        folder, commands = tmp_path / "programs-home", tmp_path / "bin"
        (folder / "work").mkdir(parents=True)
        commands.mkdir()
        environ = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
            "SECRET_BROKER_HOME": str(home.settings.home),
            "REDIS_URL": str(home.settings.redis_url),
        }
        (folder / "tmp").mkdir()
        bench = Bench(home, folder, vault, environ)
        for name, start in COMMANDS.items():
            bench.command(name, f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} {start} "$@"')
        bench.command("gh", 'echo "token: $GH_TOKEN"')
        bench.lend()
        yield bench


@asynccontextmanager
async def proxied(bench: Bench, authority: Authority, upstream: Upstream, routes: str) -> AsyncIterator[str]:
    """Run the egress proxy with documented routes that all lead to one upstream; its address."""
    trust = f"ca_file: {authority.file}\n      allow_private: [127.0.0.0/8, '::1/128']"
    here = re.sub(r"upstream: .*", f"upstream: https://localhost:{upstream.port}\n      {trust}", routes)
    file = bench.home.settings.home / "egress.yaml"
    file.write_text(here)
    egress = Egress(file, bench.home.credential("egress", run_id="proxy-1"), port=0)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(egress.run(address.set_result))
    try:
        yield await asyncio.wait_for(address, LONG)
    finally:
        egress.stop()
        await running


@asynccontextmanager
async def server_over_http(bench: Bench) -> AsyncIterator[tuple[str, str]]:
    """`secret-agent mcp` over HTTP, started as documented but at a port that is free; its URL and its token."""
    line = documented("mcp.md", "For several clients of one user", "console").partition("\n")[0].removeprefix("$ ")
    given = {"7730": "0", "~/.mcp-token": str(bench.folder.parent / "mcp-token"), "npm publish": PATTERN}
    words = [given.get(word, word) for word in shlex.split(line)]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=bench.work, env=bench.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), LONG)).decode()
        url = re.search(r"http://127.0.0.1:\d+", said)
        assert url is not None, said
        yield url[0], Path(given["~/.mcp-token"]).read_text().strip()  # noqa: ASYNC240  # a small file
    finally:
        process.terminate()
        await process.communicate()
