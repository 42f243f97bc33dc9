"""`secret-broker jobs`: the process that does what may be late."""

import os
import time

import click

from broker_worker.app.hardening import harden
from broker_worker.files.keys import JOBS, load_seed
from broker_worker.jobs.payloads import NOTIFICATIONS, ROTATIONS, UPSTREAM
from broker_worker.jobs.serving import JobProcess
from broker_worker.queue import acl
from broker_worker.queue.login import process_url
from broker_worker.settings import Settings


@click.command()
@click.option(
    "--queue",
    type=click.Choice([NOTIFICATIONS, UPSTREAM, ROTATIONS]),
    default=NOTIFICATIONS,
    show_default=True,
    help="Reach people, tell vaults to take credentials back, or rotate what is due.",
)
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="End when standard input ends.")
@click.pass_obj
def jobs(settings: Settings, queue: str, until_stdin_ends: bool) -> None:
    """Do what may be late, until SIGTERM: tell people that approvals wait, revoke upstream, rotate what is due.

    `up` starts it where it is needed. The process that tells people reads keys/jobs.key and broker.yaml and has no
    access to a vault. Run apart, it needs keys/queue-jobs.password: `secret-broker acl --password jobs`.
    """
    harden()
    jobs_key = load_seed(settings.keys_dir / JOBS)
    url = process_url(settings.queue_address, settings.keys_dir, acl.JOBS, load_seed)
    if queue == UPSTREAM:
        from broker_worker.app.upstream import serve_upstream  # noqa: PLC0415  # loads providers; the other does not

        serve_upstream(settings, url, jobs_key, until_stdin_ends=until_stdin_ends)
        return
    if queue == ROTATIONS:
        from broker_worker.app.rotation_schedule import serve_rotations  # noqa: PLC0415  # loads providers as well

        serve_rotations(settings, url, jobs_key, until_stdin_ends=until_stdin_ends)
        return
    process = JobProcess(url, jobs_key, queue, lambda: time.time_ns() // 1_000_000)
    process.work(process.notifying(settings.config_dir, dict(os.environ)), until_stdin_ends=until_stdin_ends)
