"""`secret-broker egress`: the proxy through which agents use secrets that they never have."""

import asyncio
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import structlog

from agent_sdk.errors import CredentialMissing
from broker_worker.app.ending import on_end_of_stdin
from broker_worker.app.hardening import harden
from broker_worker.app.part_credentials import acting_agent
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.egress import EGRESS_FILE, check_egress
from broker_worker.settings import Settings

_log = structlog.get_logger(__name__)
_FILE = click.option(
    "--config",
    metavar="PATH",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file with the routes; config/egress.yaml of the home by default.",
)


@click.group(invoke_without_command=True)
@_FILE
@click.option("--port", type=click.IntRange(0, 65_535), help="Port on 127.0.0.1; 0 for any free one.")
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_context
def egress(ctx: click.Context, config: Path | None, port: int | None, until_stdin_ends: bool) -> None:
    """Serve the routes of egress.yaml to agents of this host until SIGTERM.

    The proxy is a run of an agent itself: `secret-broker launch --agent egress -- secret-broker egress --config FILE`,
    where the policy lets the agent `egress` act for others. `secret-broker up` starts it if there is a
    config/egress.yaml.
    """
    if ctx.invoked_subcommand is None:
        _check_installed()
        _run(config or ctx.obj.config_dir / EGRESS_FILE, port, until_stdin_ends=until_stdin_ends)


@egress.command()
@_FILE
@click.pass_obj
def check(settings: Settings, config: Path | None) -> None:
    """Check egress.yaml, and that registry and policy know its secrets and its agent. Resolves and asks nothing."""
    path = config or settings.config_dir / EGRESS_FILE
    configuration = load_configuration(settings.config_dir)
    found = check_egress(path, configuration)
    agent = acting_agent(configuration.policy, "egress", "proxy")
    for route in found.routes.values():
        click.echo(f"{route.name}: {route.upstream.origin} with {route.secret}, {len(route.allow)} allowed")
    routes = "1 route" if len(found.routes) == 1 else f"{len(found.routes)} routes"
    click.echo(f"{path}: valid, {routes} at http://127.0.0.1:{found.port}, as the agent {agent}")


def _run(file: Path, port: int | None, *, until_stdin_ends: bool) -> None:
    """Serve on the faster event loop where there is one."""
    if sys.platform == "win32":
        asyncio.run(_serve(file, port, until_stdin_ends=until_stdin_ends))
    else:
        import uvloop  # noqa: PLC0415  # does not exist on Windows

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(file, port, until_stdin_ends=until_stdin_ends))


async def _serve(file: Path, port: int | None, *, until_stdin_ends: bool) -> None:
    from broker_worker.app.collecting import collect_seldom  # noqa: PLC0415  # as below
    from broker_worker.app.reloading import watch  # noqa: PLC0415  # not for `check`
    from broker_worker.egress.serving import Egress  # noqa: PLC0415  # an extra that need not be installed

    harden()
    try:
        served = Egress(file, port=port)
    except CredentialMissing:
        raise SetupError(
            "the proxy was handed no credential of a run",
            hint="`secret-broker up` gives it one; or start it by `secret-broker launch --agent egress -- …`",
        ) from None
    collect_seldom()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(served.stop))
        else:
            loop.add_signal_handler(number, served.stop)
    if until_stdin_ends:
        on_end_of_stdin(served.stop)
    await served.run(lambda address: _log.info("egress_ready", address=address), watch)


def _check_installed() -> None:
    for package in ("aiohttp", "httptools"):
        if find_spec(package) is None:
            hint = "install the extra `egress`, or `all`"
            raise SetupError(f"the proxy needs {package}, which is not installed", hint=hint)
