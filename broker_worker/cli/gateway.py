"""`secret-broker gateway`: secrets over HTTP, for programs of this host in any language."""

import asyncio
import os
import signal
import sys
from importlib.util import find_spec

import click
import structlog

from agent_sdk.credential import RunCredential
from agent_sdk.errors import CredentialMissing
from broker_worker.app.ending import on_end_of_stdin
from broker_worker.app.hardening import harden
from broker_worker.core.configuration import ServerSettings
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.settings import Settings

ADDRESS_VARIABLE = "SECRET_BROKER_GATEWAY"
"""Where `up` says to listen: the host and the port of `server`, which the operator's files were checked for."""
_NEEDED = ("starlette", "uvicorn", "h11")
_log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port, as `server` in broker.yaml has it; 0 for any free one."
)
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_obj
def gateway(settings: Settings, port: int | None, until_stdin_ends: bool) -> None:
    """Serve POST /v1/secrets/resolve to programs of this host until SIGTERM.

    `up` starts it where broker.yaml has `server`. Run apart, it is a run like any other, of an agent that the policy
    lets act for others: `secret-broker launch --agent gateway --credential-file FILE -- secret-broker gateway --port
    7700`; write the file anew before the credential in it ends.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"the gateway needs packages that are not installed: {', '.join(missing)}",
            hint="install secret-broker with its extra `gateway`, or `all`",
        )
    harden()
    asyncio.run(_serve(_address(settings, port), until_stdin_ends=until_stdin_ends))


def _address(settings: Settings, port: int | None) -> ServerSettings:
    """Where to listen; with --port, or started by `up`, the files are not read, and need not be there."""
    if port is not None:
        return ServerSettings(port=port)
    host, _, text = os.environ.get(ADDRESS_VARIABLE, "").partition(" ")
    if text.isdecimal():
        return ServerSettings(host, int(text))
    return load_configuration(settings.config_dir).server or ServerSettings()


async def _serve(server: ServerSettings, *, until_stdin_ends: bool) -> None:
    from broker_worker.gateway.serving import serve_gateway  # noqa: PLC0415  # an extra that need not be installed

    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
        else:
            loop.add_signal_handler(number, stopping.set)
    if until_stdin_ends:
        on_end_of_stdin(stopping.set)
    try:
        await serve_gateway(server, RunCredential.load, stopping, lambda origin: _log.info("gateway_ready", at=origin))
    except CredentialMissing:
        raise SetupError(
            "the gateway was handed no credential of a run",
            hint="`secret-broker up` gives it one; or start it by `secret-broker launch --agent gateway -- …`",
        ) from None
