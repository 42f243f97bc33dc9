"""`secret-agent headers`: what a run sends of itself to the HTTP gateway, for curl and its like."""

import secrets
from datetime import timedelta

import click

from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.credential import RunCredential
from agent_sdk.secret import wall_clock
from agent_sdk.wire.proof import sign_proof

_LIFETIME = timedelta(minutes=1)


@click.command()
@click.argument("audience", metavar="[AUDIENCE]", required=False)
def headers(audience: str | None) -> None:
    """Print this run's header lines for the gateway, one a line; with AUDIENCE also a proof of the run's key.

    `secret-agent headers http://127.0.0.1:7700 | curl -sS -H @- …`: so the token is in no argument that others could
    see, and in no shell history. AUDIENCE is what the policy names as the gateway's. A proof serves one request, within
    a minute.
    """
    if standard_output().isatty():
        raise click.UsageError("this prints the run's token: pipe it into what sends it, such as curl -H @-")
    credential = RunCredential.load()
    click.echo(f"Authorization: Bearer {credential.token}")
    click.echo(f"X-Agent-Id: {credential.agent_id}")
    click.echo(f"X-Agent-Run-Id: {credential.run_id}")
    if audience is not None:
        lifetime = _LIFETIME // timedelta(milliseconds=1)
        try:
            proof = sign_proof(
                credential.seed, credential.token, audience, wall_clock(), lifetime, secrets.token_urlsafe(16)
            )
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="AUDIENCE") from None
        click.echo(f"Workload-Proof-Token: {proof}")
