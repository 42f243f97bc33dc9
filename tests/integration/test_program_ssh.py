"""OpenSSH itself on both sides: its client logs in, and git fetches and pushes, with keys that stay in our agent."""

import asyncio
import getpass
import os
import pwd
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from desk_workbench import LONG
from program_bench import Bench, documented, program

KINDS = ["ed25519", "rsa", "ecdsa"]
"""As `ssh-keygen -t` makes them."""


@pytest.fixture
async def login(programs: Bench, unused_tcp_port: int) -> AsyncIterator[dict[str, str]]:
    """A real `sshd` that lets in who signs with `~/.ssh/deploy`; what `ssh` and git are told of it."""
    if os.getuid() == 0:
        named = {each.pw_name for each in pwd.getpwall()}
        if "sshd" not in named or not os.access("/run/sshd", os.X_OK):
            pytest.skip("sshd runs as root only where there are a user sshd and a folder /run/sshd")
    server = programs.folder.parent / "sshd"
    server.mkdir()
    host = await make_key(server / "host", "ed25519")
    config = {"Port": str(unused_tcp_port), "ListenAddress": "127.0.0.1", "HostKey": str(server / "host")}
    config |= {"AuthorizedKeysFile": str(programs.folder / ".ssh/deploy.pub"), "PidFile": "none", "UsePAM": "no"}
    config |= {"StrictModes": "no", "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no"}
    (server / "config").write_text("".join(f"{name} {text}\n" for name, text in config.items()))
    (programs.folder / ".ssh").mkdir()
    known = programs.write(".ssh/hosts", f"[127.0.0.1]:{unused_tcp_port} {host}\n")
    options = {"UserKnownHostsFile": known, "IdentityFile": "none", "Port": unused_tcp_port, "BatchMode": "yes"}
    told = " ".join(["-F", "none", *(f"-o{name}={text}" for name, text in options.items())])
    process = await asyncio.create_subprocess_exec(
        *(program("sshd"), "-D", "-e", "-f", str(server / "config")),
        stderr=asyncio.subprocess.PIPE,
        env=programs.environ,
    )
    try:
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), LONG)
        assert b"Server listening on 127.0.0.1" in line, line
        ssh = f"{program('ssh')} {told}"
        yield {"SSH": ssh, "GIT_SSH_COMMAND": ssh, "TMPDIR": "/tmp"}  # the folder's own path is too long for a socket
    finally:
        process.terminate()
        await process.communicate()


async def make_key(path: Path, kind: str) -> str:
    """Have `ssh-keygen` make a key without a passphrase; its public half."""
    made = (program("ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path))
    await asyncio.to_thread(subprocess.run, made, check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


async def give(programs: Bench, kind: str = "ed25519") -> str:
    """Give a fresh key to the vault, and leave only its public half in the program's home; the private one."""
    path = programs.folder / ".ssh/deploy"
    await make_key(path, kind)
    private = path.read_text()
    programs.vault.values["local://deploy.ssh_key"] = private.encode()
    path.unlink()
    return private


def agent(command: str) -> str:
    """The documented line with another command below the agent."""
    line = documented("conventions.md", "## SSH\n", "console").removeprefix("$ ").strip()
    assert line.endswith("-- git push")
    return line.removesuffix("git push") + command


@pytest.mark.parametrize("kind", KINDS)
async def test_it_logs_in_with_a_key_that_it_never_has(programs: Bench, login: dict[str, str], kind: str) -> None:
    """The server takes the signature; the key is in no file, and what asked for it is in the audit."""
    private = await give(programs, kind)
    line = agent(f"$SSH {getpass.getuser()}@127.0.0.1 echo let in")
    done = await programs.run("bash", "-c", line, **login)
    assert (done.code, done.output) == (0, "let in\n"), done
    assert programs.traces(private.splitlines()[2]) == []
    assert ("claude", "deploy.ssh_key", "ssh") in programs.asked()


async def test_the_server_lets_nobody_in_without_it(programs: Bench, login: dict[str, str]) -> None:
    """So it is the agent that opens the door; and it signs nothing when the broker refuses."""
    await give(programs)
    command = f"$SSH {getpass.getuser()}@127.0.0.1 echo let in"
    done = await programs.run("bash", "-c", command, **login)
    assert (done.code, done.output) == (255, "")
    programs.lend("codex")
    done = await programs.run("bash", "-c", agent(command), **login)
    assert (done.code, done.output) == (255, "")
    assert "deploy.ssh_key: denied" in done.errors


async def test_git_pushes_and_fetches_over_it(programs: Bench, login: dict[str, str]) -> None:
    """The documented line as it is, in a clone."""
    await give(programs)
    there = programs.folder.parent / "site.git"
    git = (program("git"), "-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (
        (*git, "init", "-q", "--bare", "-b", "main", str(there)),
        (*git, "init", "-q", "-b", "main", "."),
        (*git, "commit", "-q", "--allow-empty", "-m", "one"),
        (*git, "remote", "add", "origin", f"ssh://{getpass.getuser()}@127.0.0.1{there}"),
        (*git, "config", "push.autoSetupRemote", "true"),
    ):
        assert (await programs.run(*command)).code == 0
    done = await programs.run("bash", "-c", agent("git push"), **login)
    assert done.code == 0, done
    done = await programs.run("bash", "-c", agent("git ls-remote origin main"), **login)
    head = await programs.run(*git, "rev-parse", "HEAD")
    assert done.output.split()[0] == head.output.strip()
