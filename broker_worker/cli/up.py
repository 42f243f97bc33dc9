"""`secret-broker up`: everything on this host."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click
import structlog

from broker_worker.app.ending import on_end_of_stdin
from broker_worker.app.supervisor import Supervisor
from broker_worker.cli.minting import RunOrder, mint_run

_LEDGER_NEEDS = ("sqlalchemy", "alembic")
_DASHBOARD_NEEDS = ("starlette", "uvicorn", "jinja2", "sse_starlette", "itsdangerous", "python_multipart")
_EGRESS_NEEDS = ("aiohttp", "httptools")
_GATEWAY_NEEDS = ("starlette", "uvicorn")
_log = structlog.get_logger(__name__)


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many worker processes.")
@click.option("--prefix", default="worker", show_default=True, help="Workers are named PREFIX-1, PREFIX-2, …")
@click.option("--ledger/--no-ledger", default=True, help="Run the ledger too.", show_default=True)
@click.option("--dashboard/--no-dashboard", default=True, help="Run the dashboard too.", show_default=True)
@click.option(
    "--notifications/--no-notifications", default=True, help="Tell people, if broker.yaml says whom.", show_default=True
)
@click.option(
    "--gateway/--no-gateway", default=True, help="Serve HTTP, if broker.yaml has `server`.", show_default=True
)
@click.option(
    "--egress/--no-egress", default=True, help="Run the egress proxy, if there is an egress.yaml.", show_default=True
)
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_context
def up(
    ctx: click.Context,
    workers: int,
    prefix: str,
    ledger: bool,
    dashboard: bool,
    notifications: bool,
    gateway: bool,
    egress: bool,
    until_stdin_ends: bool,
) -> None:
    """Run the broker on this host: queue (embedded unless REDIS_URL is set), its users, all processes.

    Those are the workers, the ledger, the dashboard (its login link is shown on a terminal; `secret-broker dashboard
    link` prints another one), and, where broker.yaml names notifications, the process that sends them, and where it has
    `server`, the HTTP gateway, and, with an egress.yaml, the egress proxy. Each is started again when it ends.
    """
    root = ctx.find_root()
    shared = root.params
    options = ["--log-level", shared["log_level"], *(["--log-json"] if shared["log_json"] else [])]
    supervisor = Supervisor(
        ctx.obj,
        workers,
        prefix,
        options,
        ledger=ledger and _can_run("ledger", root.command, _LEDGER_NEEDS),
        dashboard=dashboard and _can_run("dashboard", root.command, _DASHBOARD_NEEDS),
        notifications=notifications,
        gateway=gateway and _can_run("gateway", root.command, _GATEWAY_NEEDS),
        egress=egress and _can_run("egress", root.command, _EGRESS_NEEDS),
        mint=lambda configuration, agent: mint_run(ctx.obj, configuration, RunOrder(agent, task="acts for others")),
    )
    asyncio.run(_run(supervisor, until_stdin_ends=until_stdin_ends))


def _can_run(command: str, root: click.Command, packages: Sequence[str]) -> bool:
    """Whether a process beside the workers can be started here; the broker works without it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        _log.warning(f"{command}_not_started", missing=missing, hint="install secret-broker with its extra `all`")
    return not missing and isinstance(root, click.Group) and command in root.commands


async def _run(supervisor: Supervisor, *, until_stdin_ends: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(supervisor.stop))
        else:
            loop.add_signal_handler(number, supervisor.stop)
    if until_stdin_ends:
        on_end_of_stdin(supervisor.stop)
    with contextlib.suppress(asyncio.CancelledError):
        await supervisor.run()
