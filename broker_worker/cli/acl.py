"""`secret-broker acl`: the users of an external Redis or Valkey server."""

import asyncio
from pathlib import Path

import click

from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.private_files import write_private
from broker_worker.queue.acl import CONSOLE, JOBS, LEDGER, agent_url, render_acl, user_password
from broker_worker.queue.users import ensure_users
from broker_worker.settings import Settings


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a file of mode 0600 instead of stdout."
)
@click.option("--url", metavar="AGENT", help="Print the queue's URL for one agent, with its password, instead.")
@click.option(
    "--password",
    "process",
    type=click.Choice([CONSOLE, LEDGER, JOBS]),
    help="Print the password of one of our own processes instead, for its keys/queue-USER.password.",
)
@click.option("--apply", is_flag=True, help="Set the users on the server of REDIS_URL instead of printing them.")
@click.pass_obj
def acl(settings: Settings, output: Path | None, url: str | None, process: str | None, apply: bool) -> None:
    """Print the ACL file of the queue's server: one user an agent, and `default` off.

    The embedded server needs none of this. Print it again after agents were added or removed; it holds no password,
    only their SHA-256. --url is for orchestrators that mint runs themselves; --password for a dashboard, ledger or
    job process that is run apart and must not hold keys/queue.key, from which every password follows.
    """
    agents = load_configuration(settings.config_dir).policy.agents
    queue_key = load_seed(settings.keys_dir / QUEUE)
    if url is not None:
        if url not in agents:
            raise click.BadParameter(f"the policy has no agent {url!r}", param_hint="--url")
        click.echo(agent_url(settings.queue_address, queue_key, url))
    elif process is not None:
        _give(output, user_password(queue_key, process) + "\n")
    elif apply:
        if settings.redis_url is None:
            raise SetupError("REDIS_URL is not set", hint="the embedded server's users are set by `secret-broker up`")
        asyncio.run(ensure_users(settings.redis_url, queue_key, agents))
        click.echo(f"set the users of {len(agents)} agents")
    else:
        _give(output, render_acl(queue_key, agents))


def _give(output: Path | None, text: str) -> None:
    if output is not None:
        write_private(output, text.encode())
    else:
        click.echo(text, nl=False)
