"""`secret-agent whoami`: which run this is, as its credential says."""

import json
from datetime import UTC, datetime

import click

from agent_sdk.cli.asking import JSON
from agent_sdk.credential import RunCredential
from agent_sdk.loan import END_OF_CALENDAR


@click.command()
@JSON
def whoami(as_json: bool) -> None:
    """Say which agent and run the credential is for, and until when. Asks nobody, and shows no key."""
    credential = RunCredential.load()
    seconds = min(credential.expires_at, END_OF_CALENDAR) / 1000
    ends = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    facts = {
        "agent": credential.agent_id,
        "run": credential.run_id,
        "queue": credential.shown_queue_url,
        "expires": ends,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, fact in facts.items():
        click.echo(f"{name:<7}  {fact}")
