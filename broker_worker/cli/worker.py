"""`secret-broker worker`: one worker process; `secret-broker up`: everything on this host."""

import asyncio
import contextlib
import signal
import sys

import click

from broker_worker.app import Supervisor, on_end_of_stdin, serve
from broker_worker.settings import Settings


@click.command()
@click.option("--name", default="worker-1", show_default=True, help="Names this worker and its audit chain.")
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Drain when standard input ends.")
@click.pass_obj
def worker(settings: Settings, name: str, until_stdin_ends: bool) -> None:
    """Run one worker process until SIGTERM; SIGHUP reads the files again."""
    serve(settings, name, until_stdin_ends=until_stdin_ends)


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many worker processes.")
@click.option("--prefix", default="worker", show_default=True, help="Workers are named PREFIX-1, PREFIX-2, …")
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_context
def up(ctx: click.Context, workers: int, prefix: str, until_stdin_ends: bool) -> None:
    """Run the broker on this host: queue (embedded unless REDIS_URL is set), its users, worker processes."""
    shared = ctx.find_root().params
    options = ["--log-level", shared["log_level"], *(["--log-json"] if shared["log_json"] else [])]
    asyncio.run(_run(Supervisor(ctx.obj, workers, prefix, options), until_stdin_ends=until_stdin_ends))


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
