"""`secret-broker dashboard`: what people see of the broker in a browser; `dashboard link`: how they log in."""

import asyncio
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import structlog

from broker_worker.app.ending import on_end_of_stdin
from broker_worker.app.hardening import harden
from broker_worker.core.errors import SetupError
from broker_worker.dashboard.inviting import link_of, make_link
from broker_worker.settings import Settings

_NEEDED = ("starlette", "jinja2", "uvicorn", "sse_starlette", "itsdangerous", "python_multipart", "webauthn")
_CONTAINER_MARKERS = ("/.dockerenv", "/run/.containerenv")
_log = structlog.get_logger(__name__)


@click.group(invoke_without_command=True)
@click.option("--port", type=click.IntRange(0, 65_535), help="Port on 127.0.0.1; 0 for any free one.")
@click.option(
    "--in-container",
    is_flag=True,
    help="Listen on the container's own addresses; publish the port on the host's 127.0.0.1 alone.",
)
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_context
def dashboard(ctx: click.Context, port: int | None, in_container: bool, until_stdin_ends: bool) -> None:
    """Serve the dashboard to browsers of this host until SIGTERM, and print a link that logs in once."""
    if ctx.invoked_subcommand is None:
        _check_installed()
        asyncio.run(_serve(ctx.obj, port, _addresses(in_container=in_container), until_stdin_ends=until_stdin_ends))


@dashboard.command()
@click.pass_obj
def link(settings: Settings) -> None:
    """Print a fresh link that logs a browser in, once and within ten minutes."""
    _check_installed()
    click.echo(make_link(settings))


async def _serve(settings: Settings, port: int | None, addresses: tuple[str, ...], *, until_stdin_ends: bool) -> None:
    from broker_worker.dashboard.serving import Dashboard  # noqa: PLC0415  # an extra that need not be installed

    harden()
    served = Dashboard(settings, port, addresses)

    def ready(origin: str) -> None:
        _log.info("dashboard_ready", origin=origin)
        if until_stdin_ends and not sys.stdout.isatty():
            return  # what a supervisor's parts print is kept, and a link in it would let in whoever reads it
        click.echo(f"dashboard: {link_of(settings, origin)}")
        click.echo("the link works once, within ten minutes; `secret-broker dashboard link` prints another")
        sys.stdout.flush()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(served.stop))
        else:
            loop.add_signal_handler(number, served.stop)
    if until_stdin_ends:
        on_end_of_stdin(served.stop)
    await served.run(ready)


def _addresses(*, in_container: bool) -> tuple[str, ...]:
    """Where to listen: elsewhere than on this host's own addresses only where the host's network is not ours.

    Raises:
        SetupError: if this is no container.
    """
    if not in_container:
        return ("127.0.0.1", "::1")
    if not any(Path(marker).exists() for marker in _CONTAINER_MARKERS):
        raise SetupError("this is no container of Docker or Podman", hint="leave out --in-container")
    return ("0.0.0.0",)  # noqa: S104  # all of the container's; what reaches it is what the host publishes


def _check_installed() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"the dashboard needs packages that are not installed: {', '.join(missing)}",
            hint="install secret-broker with its extra `dashboard`, or `all`",
        )
