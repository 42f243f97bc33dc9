"""`secret-agent whoami`: which run this is, as its credential says."""

from datetime import UTC, datetime

import click

from agent_sdk.credential import RunCredential


@click.command()
def whoami() -> None:
    """Say which agent and run the credential is for, and until when. Asks nobody, and shows no key."""
    credential = RunCredential.load()
    ends = datetime.fromtimestamp(credential.expires_at / 1000, UTC)
    click.echo(f"agent    {credential.agent_id}")
    click.echo(f"run      {credential.run_id}")
    click.echo(f"queue    {credential.shown_queue_url}")
    click.echo(f"expires  {ends:%Y-%m-%dT%H:%M:%SZ}")
