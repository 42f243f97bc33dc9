"""`secret-agent ssh-agent`: an SSH agent that signs with keys that only the broker has."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from agent_sdk.blocking import SecretBroker
from agent_sdk.cli.asking import PURPOSE, TIMEOUT
from agent_sdk.conventions.ssh_agent import Identity, identity_of, load_private_key, parse_public_key
from agent_sdk.conventions.ssh_serving import SigningServer
from agent_sdk.errors import InvalidRequest
from agent_sdk.references import SCHEME
from agent_sdk.source import SecretSource

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


@click.command("ssh-agent", context_settings={"allow_interspersed_args": False})
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    metavar="NAME[=PUBLIC]",
    help="A private key's secret; with the file of its public half it is asked for only when it signs.",
)
@PURPOSE
@TIMEOUT
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def ssh_agent(keys: tuple[str, ...], purpose: str, timeout: float, command: tuple[str, ...]) -> None:
    """Run COMMAND with an SSH agent of its own (SSH_AUTH_SOCK), and end the agent with it.

    The keys stay in this process: the command, and ssh, get signatures. Every use asks the broker, unless the value
    is still lent.
    """
    if sys.platform == "win32":
        raise InvalidRequest("Windows' OpenSSH talks to a named pipe, which this agent does not serve")
    with SecretBroker(timeout=timeout) as broker:
        signers = [_signer(broker, key, purpose or "ssh") for key in keys]
        with tempfile.TemporaryDirectory(prefix="secret-agent-") as folder, SigningServer(signers) as server:
            socket = Path(folder) / "agent.sock"  # the folder is 0700
            server.listen(socket)
            code = _run(command, {**os.environ, "SSH_AUTH_SOCK": str(socket)})
    raise click.exceptions.Exit(code)


def _signer(broker: SecretBroker, key: str, purpose: str) -> tuple[Identity, SecretSource]:
    name, equals, public = key.removeprefix(SCHEME).partition("=")
    source = broker.source(name, purpose=purpose)
    if equals:
        file = Path(public).expanduser()  # no shell does, behind NAME= with a dot in it
        return parse_public_key(file.read_text("utf-8", "replace"), name), source
    return identity_of(load_private_key(source().encode(), name), name), source


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run the command; signals of the terminal reach it by themselves, and TERM and HUP are passed on."""
    told: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        child = subprocess.Popen(command, env=environment)  # noqa: S603  # the caller's own command, without a shell
        children.append(child)
        for number in told:  # while it was being started
            child.send_signal(number)
        before |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
        code = child.wait()
    except FileNotFoundError:
        click.echo(f"error: {command[0]}: command not found", err=True)
        return _NOT_FOUND
    except OSError as error:
        click.echo(f"error: {command[0]}: {error.strerror}", err=True)
        return _NOT_EXECUTABLE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
