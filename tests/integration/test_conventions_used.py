"""Programs that are there wherever tests run ask in the ways that they have: git, OpenSSH, boto3, OpenAI, LangChain.

Those that may be missing are in modules of their own (`test_program_….py`).
"""

import asyncio
import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from broker_home import Home
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from desk_workbench import LONG
from fake_vault import FakeVault
from program_bench import Bench, value

from agent_sdk import SecretBroker

AGENT = (sys.executable, "-m", "agent_sdk.cli")
DOCKER = (sys.executable, "-c", "from agent_sdk.cli.docker_credential import main; main()")
TOKEN, PASSWORD = "canary-of-github-3b1d", "canary-of-aws-9c2e"
KEY = ed25519.Ed25519PrivateKey.generate()
POLICY = """
    agents:
      claude:
        allow: [github.token, aws.deploy, deploy.ssh_key, openai.api_key]
"""
REGISTRY = """
    secrets:
      github.token: "local://github"
      aws.deploy: "local://aws"
      deploy.ssh_key: "local://ssh"
      openai.api_key: "local://openai"
      hidden.key: "local://hidden"
"""
VALUES = {
    "local://github": TOKEN.encode(),
    "local://aws": json.dumps({"access_key": "AKIAMADEUP", "secret_key": PASSWORD}).encode(),
    "local://ssh": KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ),
    "local://openai": b"canary-of-openai-5a7f",
}


@pytest.fixture
async def environment(home: Home, tmp_path: Path) -> AsyncIterator[Mapping[str, str]]:
    """What a program inherits that was launched with a credential file, while a broker serves it."""
    home.write(policy=POLICY, registry=REGISTRY)
    async with home.working(FakeVault(VALUES)):
        credential = tmp_path / "credential.json"
        credential.touch(0o600)
        credential.write_text(home.credential().to_json())
        mine = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "GIT_", "SSH_"))}
        mine["HOME"] = mine["XDG_CONFIG_HOME"] = str(tmp_path)
        yield {**mine, "SECRET_BROKER_CREDENTIAL_FILE": str(credential), "GIT_CONFIG_NOSYSTEM": "1"}


async def run(environment: Mapping[str, str], *command: str, given: str = "") -> tuple[int, str, str]:
    """Run a program to its end, while the worker goes on; exit code, output, errors."""
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=LONG * 3,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def is_there(path: str) -> bool:
    """Whether a file, or a socket, is there."""
    return os.path.lexists(path)


class Server(ThreadingHTTPServer):
    """Remembers what callers show, and answers chats."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.shown: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.shown.append(self.headers.get("Authorization", ""))
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        message = {"role": "assistant", "content": "fine"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        body = json.dumps({**answer, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_git_does_not_ask_a_person_when_the_broker_refuses(environment: Mapping[str, str]) -> None:
    """It stops, and says why in the broker's words."""
    helper = f"!{shlex.join(AGENT)} git-credential --host github.com --secret hidden.key"
    git = ("git", "-c", "credential.helper=", "-c", f"credential.helper={helper}")
    code, filled, errors = await run(
        environment, *git, "credential", "fill", given="protocol=https\nhost=github.com\n\n"
    )
    assert code != 0
    assert "hidden.key: denied" in errors
    assert "told us to quit" in errors
    assert "password" not in filled


async def test_boto3_takes_its_credentials_from_the_process(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `credential_process` in its config file says."""
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\ncredential_process = {shlex.join(AGENT)} aws-credentials --secret aws.deploy\n")
    for name, text in {**environment, "AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": "/none"}.items():
        monkeypatch.setenv(name, text)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def taken() -> tuple[str, str, str]:
        import boto3  # noqa: PLC0415  # large: only a process that runs this test waits for it

        found = boto3.Session().get_credentials()
        assert found is not None
        frozen = found.get_frozen_credentials()
        return frozen.access_key or "", frozen.secret_key or "", found.method

    assert await asyncio.to_thread(taken) == ("AKIAMADEUP", PASSWORD, "custom-process")


async def test_docker_is_answered_as_its_helpers_answer(environment: Mapping[str, str]) -> None:
    """`get`, `list`, `store` and `erase` on standard input and output, with the exit codes that Docker reads."""
    told = {**environment, "SECRET_AGENT_DOCKER": "ghcr.io=me:github.token"}
    code, output, _ = await run(told, *DOCKER, "get", given="https://ghcr.io\n")
    assert (code, json.loads(output)["Secret"]) == (0, TOKEN)
    code, output, _ = await run(told, *DOCKER, "get", given="other.example")
    assert (code, output.strip()) == (1, "credentials not found in native keychain")
    assert (await run(told, *DOCKER, "erase", given="ghcr.io"))[0] == 0
    code, output, errors = await run(told, *DOCKER, "store", given=json.dumps({"Secret": "typed-in"}))
    assert code == 1
    assert "typed-in" not in output + errors
    wrong = {**environment, "SECRET_AGENT_DOCKER": "ghcr.io"}
    code, _, errors = await run(wrong, *DOCKER, "get", given="ghcr.io")
    assert (code, errors) == (2, "error: SECRET_AGENT_DOCKER: entry 1 is not of the form ghcr.io=USER:secret.name\n")


async def test_claude_code_and_codex_read_the_key_from_standard_output(environment: Mapping[str, str]) -> None:
    """`apiKeyHelper` is run by `/bin/sh`, Codex's `auth` command as an argument list; a refusal is no key."""
    helper = f"{shlex.join(AGENT)} get openai.api_key --purpose 'Claude Code'"
    code, output, _ = await run(environment, "/bin/sh", "-c", helper)
    assert (code, output.strip()) == (0, "canary-of-openai-5a7f")
    code, output, errors = await run(environment, *AGENT, "get", "openai.api_key", "--purpose", "Codex")
    assert (code, output.strip(), errors) == (0, "canary-of-openai-5a7f", "")
    code, output, errors = await run(environment, *AGENT, "get", "hidden.key")
    assert (code, output) == (1, "")
    assert errors.startswith("error: hidden.key: denied")


async def test_a_reference_names_a_secret_as_its_name_does(environment: Mapping[str, str]) -> None:
    """Whoever writes `secret://…` in an environment may write it here too; what is no name is told at once."""
    aws, git = (*AGENT, "aws-credentials", "--secret"), (*AGENT, "git-credential", "--host", "a.b", "--secret")
    code, output, _ = await run(environment, *aws, "secret://aws.deploy")
    assert (code, json.loads(output)["SecretAccessKey"]) == (0, PASSWORD)
    code, output, _ = await run(environment, *git, "secret://github.token", "get", given="protocol=https\nhost=a.b\n\n")
    assert (code, f"password={TOKEN}" in output) == (0, True)
    code, output, _ = await run(
        environment, *AGENT, "ssh-agent", "--key", "secret://deploy.ssh_key", "--", "echo", "in"
    )
    assert (code, output) == (0, "in\n")
    code, output, errors = await run(environment, *aws, "local://aws")
    assert (code, output, "secret name" in errors) == (2, "", True)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None or shutil.which("ssh-add") is None, reason="needs OpenSSH")
async def test_openssh_signs_with_a_key_that_it_never_has(environment: Mapping[str, str], tmp_path: Path) -> None:
    """Real `ssh-add -l` and `ssh-keygen -Y sign` below the agent; the signature verifies, the socket is gone after."""
    public = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    (tmp_path / "key.pub").write_text(public + "\n")
    (tmp_path / "text").write_text("release 4.2\n")
    (tmp_path / "signers").write_text(f"deploy {public}\n")
    script = f"ssh-add -l && ssh-keygen -Y sign -n file -f {tmp_path}/key.pub {tmp_path}/text && env && exit 7"
    command = (*AGENT, "ssh-agent", "--key", "deploy.ssh_key=~/key.pub", "--", "sh", "-c", script)
    code, output, errors = await run(environment, *command)
    assert code == 7, errors
    assert "deploy.ssh_key (ED25519)" in output
    verify = ("ssh-keygen", "-Y", "verify", "-f", f"{tmp_path}/signers", "-I", "deploy", "-n", "file")
    code, verified, errors = await run(
        environment, *verify, "-s", f"{tmp_path}/text.sig", given=(tmp_path / "text").read_text()
    )
    assert code == 0, verified + errors
    (socket,) = [line.partition("=")[2] for line in output.splitlines() if line.startswith("SSH_AUTH_SOCK=")]
    assert not is_there(socket)
    assert "PRIVATE KEY" not in output + errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_an_ssh_agent_that_is_ended_ends_its_command_and_leaves_no_socket(
    environment: Mapping[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    """Also when its terminal is closed."""
    public = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    (tmp_path / "key.pub").write_text(public + "\n")
    script = 'echo "$SSH_AUTH_SOCK"; exec sleep 60'
    command = (*AGENT, "ssh-agent", "--key", f"deploy.ssh_key={tmp_path}/key.pub", "--", "sh", "-c", script)
    agent = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        socket = (await asyncio.wait_for(agent.stdout.readline(), LONG)).decode().strip()
        assert is_there(socket)
        agent.send_signal(number)
        assert await asyncio.wait_for(agent.wait(), LONG) == 128 + number
        assert not is_there(socket)
    finally:
        if agent.returncode is None:
            agent.kill()


async def test_openssh_gets_no_signature_when_the_broker_refuses(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    """The key is listed, as its public half is known, and does not sign."""
    public = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    (tmp_path / "key.pub").write_text(public + "\n")
    script = f"ssh-keygen -Y sign -n file -f {tmp_path}/key.pub < /dev/null"
    command = (*AGENT, "ssh-agent", "--key", f"hidden.key={tmp_path}/key.pub", "--", "sh", "-c", script)
    code, _, errors = await run(environment, *command)
    assert code != 0
    assert "hidden.key: denied" in errors
    code, _, errors = await run(environment, *AGENT, "ssh-agent", "--key", "hidden.key", "--", "true")
    assert (code, errors.startswith("error: hidden.key: denied")) == (1, True)


async def test_clients_take_a_callable_in_place_of_a_key(
    home: Home, environment: Mapping[str, str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The OpenAI SDK's and LangChain's show the broker's value, asked for once."""
    assert environment
    monkeypatch.setenv("NO_PROXY", "*")
    url = f"http://127.0.0.1:{server.server_port}/v1"

    def chat() -> None:
        from langchain_openai import ChatOpenAI  # noqa: PLC0415  # seconds: only a process that runs this test waits
        from openai import OpenAI  # noqa: PLC0415  # as above

        with SecretBroker(home.credential(), timeout=LONG) as broker:
            source = broker.source("openai.api_key", purpose="chat")
            OpenAI(api_key=source, base_url=url, max_retries=0).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}]
            )
            ChatOpenAI(model="m", api_key=source, base_url=url, max_retries=0).invoke("hello")

    await asyncio.to_thread(chat)
    assert server.shown == ["Bearer canary-of-openai-5a7f"] * 2
    asked = [record for record in home.records("access") if record.secret_name == "openai.api_key"]
    assert [record.purpose for record in asked] == ["chat"]


async def test_the_search_for_traces_finds_what_it_looks_for(programs: Bench) -> None:
    """Otherwise finding nothing in a program's home would show nothing."""
    raw = value("openai.api_key").encode()
    written = [
        raw,
        b"x" + raw + b"y",
        raw.hex().encode(),
        *(base64.b64encode(bytes(n) + raw + b"cd") for n in range(3)),
    ]
    for number, text in enumerate(written):
        programs.write(f"deep/er/{number}", text.decode())
    programs.write("harmless", "nothing")
    assert len(programs.traces()) == len(written)
