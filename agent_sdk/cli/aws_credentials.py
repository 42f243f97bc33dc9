"""`secret-agent aws-credentials`: a `credential_process` for AWS's tools and SDKs."""

import click

from agent_sdk.cli.asking import PURPOSE, TIMEOUT, ask_for, checked_name
from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.conventions.aws import credential_of_one, credential_of_parts


@click.command("aws-credentials")
@click.option(
    "--secret", metavar="NAME", callback=checked_name, help="One secret that holds everything as a JSON object."
)
@click.option("--access-key-id", metavar="NAME", callback=checked_name, help="The secret of the access key's id.")
@click.option(
    "--secret-access-key", metavar="NAME", callback=checked_name, help="The secret of the access key's secret."
)
@click.option(
    "--session-token", metavar="NAME", callback=checked_name, help="The secret of a session token, if there is one."
)
@PURPOSE
@TIMEOUT
def aws_credentials(
    secret: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    purpose: str,
    timeout: float,
) -> None:
    """Print credentials as AWS's tools read them.

    In ~/.aws/config: `credential_process = secret-agent aws-credentials --secret aws.deploy`.
    """
    standard_output()
    parts = [name for name in (access_key_id, secret_access_key, session_token) if name is not None]
    if secret is not None and not parts:
        click.echo(credential_of_one(ask_for(secret, purpose=purpose or "aws", timeout=timeout)[secret]))
    elif secret is None and access_key_id is not None and secret_access_key is not None:
        found = ask_for(*parts, purpose=purpose or "aws", timeout=timeout)
        session = None if session_token is None else found[session_token]
        click.echo(credential_of_parts(found[access_key_id], found[secret_access_key], session))
    else:
        raise click.UsageError("give --secret, or both --access-key-id and --secret-access-key")
