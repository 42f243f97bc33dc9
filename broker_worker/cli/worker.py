"""`secret-broker worker`: one worker process."""

import click

from broker_worker.app.serve import serve
from broker_worker.settings import Settings


@click.command()
@click.option("--name", default="worker-1", show_default=True, help="Names this worker and its audit chain.")
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Drain when standard input ends.")
@click.pass_obj
def worker(settings: Settings, name: str, until_stdin_ends: bool) -> None:
    """Run one worker process until SIGTERM; SIGHUP reads the files again."""
    serve(settings, name, until_stdin_ends=until_stdin_ends)
