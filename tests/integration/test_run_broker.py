"""`secret-agent run` against a real broker: one request for all of a command's values, each decided in its way."""

import asyncio
import os
import subprocess
from pathlib import Path

from agent_workbench import AGENT, ROOT
from broker_home import Home
from desk_workbench import until
from fake_vault import FakeVault

from agent_sdk.credential import FILE_VARIABLE

NAMES = ("openai.api_key", "anthropic.api_key", "github.read_token")


class RealBroker:
    """`secret-agent run` of one run against a real broker.

    Args:
        home: the broker's installation.
        folder: where the credential is written.
    """

    def __init__(self, home: Home, folder: Path) -> None:
        credential = folder / "run.json"
        credential.touch(0o600)
        credential.write_text(home.credential(run_id="run-7").to_json())
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), FILE_VARIABLE: str(credential)}
        self._records = home.records

    async def agent(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Run `secret-agent ARGUMENTS` to its end."""
        command = [*AGENT, *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, env=self._environ, capture_output=True, timeout=60, check=False
        )

    def recorded(self, action: str) -> dict[str | None, tuple[str | None, str | None, str | None]]:
        """What the audit has of one action: by name the way, what came of it, and why."""
        found = [each for each in self._records("access") if each.action == action]
        return {each.secret_name: (each.deliver, each.outcome, each.reason) for each in found}

    def requests(self, action: str = "resolve") -> int:
        """How many requests for it the audit has."""
        return len({each.request_id for each in self._records() if each.action == action})


async def test_a_real_broker_is_asked_once_for_all_that_a_command_needs(home: Home, tmp_path: Path) -> None:
    """Variables, files and an env file: one request, each name with its way in the audit, renewed, given back."""
    home.write(
        policy="agents: {claude: {allow: [{secret: openai.api_key, deliver: [env]}, "
        "{secret: anthropic.api_key, deliver: [file]}, github.read_token]}}",
        registry="secrets:\n" + "".join(f"  {name}: {{ref: 'local://{name}', ttl_seconds: 3}}\n" for name in NAMES),
    )
    (tmp_path / "f").write_text("C=secret://github.read_token\nD=plain\n")
    options = ["--env", "A=secret://openai.api_key", "--file", "B=secret://anthropic.api_key", "--env-file"]
    options += [str(tmp_path / "f"), "--file", "E=secret://github.read_token", "--purpose", "ticket 12"]
    script = f"""
        echo "$A $(cat $B) $C $D"
        test "$C" = "$(cat $E)" && echo same
        until test -e {tmp_path}/go; do sleep 0.05; done
    """
    broker = RealBroker(home, tmp_path)
    async with home.working(FakeVault({f"local://{name}": f"value of {name}".encode() for name in NAMES})):
        running = asyncio.ensure_future(broker.agent("run", *options, "--", "sh", "-c", script))
        await until(lambda: running.done() or broker.recorded("renew").keys() == set(NAMES))
        (tmp_path / "go").touch()
        done = await running
    assert done.stdout.decode() == (
        "[masked openai.api_key] [masked anthropic.api_key] [masked github.read_token] plain\nsame\n"
    )
    assert (done.stderr, done.returncode) == (b"", 0)
    assert broker.requests() == 1
    assert broker.recorded("resolve") == {
        "openai.api_key": ("env", "granted", None),
        "anthropic.api_key": ("file", "granted", None),
        "github.read_token": ("env,file", "granted", None),
    }
    assert {outcome for _, outcome, _ in broker.recorded("renew").values()} == {"granted"}
    assert broker.recorded("release").keys() == set(NAMES)
    assert broker.requests("release") == len(NAMES)


async def test_a_name_that_may_not_go_its_way_starts_nothing(home: Home, tmp_path: Path) -> None:
    """The error says which, the hint how to learn why; the audit says why, and the others were given back."""
    home.write(
        policy="agents: {claude: {allow: [openai.api_key, {secret: anthropic.api_key, deliver: [env]}]}}",
    )
    options = ["--env", "A=secret://openai.api_key", "--file", "B=secret://anthropic.api_key", "--purpose", "it's due"]
    broker = RealBroker(home, tmp_path)
    async with home.working():
        listed = await broker.agent("list")
        done = await broker.agent("run", *options, "--", "touch", str(tmp_path / "started"))
    assert listed.stdout == b"anthropic.api_key\tenv only\nopenai.api_key\n"
    assert (done.returncode, (tmp_path / "started").exists()) == (1, False)
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: nothing was started: anthropic.api_key: denied; ")
    asked = "--agent claude --run run-7 --secret anthropic.api_key --deliver file --purpose 'it'\"'\"'s due'"
    assert f"`secret-broker policy explain {asked}` on the broker's host" in hint
    assert broker.requests() == 1
    assert broker.recorded("resolve") == {
        "openai.api_key": ("env", "granted", None),
        "anthropic.api_key": ("file", "refused", "deliver_not_granted"),
    }
    assert broker.recorded("release") == {"openai.api_key": (None, "granted", None)}
