"""`secret-agent git-credential`: a credential helper for git."""

import click

from agent_sdk.cli.asking import PURPOSE, TIMEOUT, ask_for, checked_name
from agent_sdk.cli.standard_streams import standard_input, standard_output
from agent_sdk.conventions.git import MAX_INPUT, covers, credential, parse_description
from agent_sdk.wire.errors import SecretBrokerError


@click.command("git-credential")
@click.option("--host", "hosts", multiple=True, required=True, help="For which host; may be repeated.")
@click.option(
    "--secret", required=True, metavar="NAME", callback=checked_name, help="The password's or token's secret."
)
@click.option("--username", default="x-access-token", show_default=True, help="As whom.")
@PURPOSE
@TIMEOUT
@click.argument("operation")
def git_credential(
    hosts: tuple[str, ...], secret: str, username: str, purpose: str, timeout: float, operation: str
) -> None:
    """Answer git's question for a credential (gitcredentials(7)).

    In git's configuration: `helper = "!secret-agent git-credential --host github.com --secret github.read_token"`.
    Another host, and http, get nothing. OPERATION is what git adds: only `get` does anything.
    """
    description = parse_description(standard_input().buffer.read(MAX_INPUT + 1))
    if operation != "get" or not covers(description, hosts):
        return
    out = standard_output().buffer  # git's protocol has bytes, whatever this process's encoding is
    try:
        answer = credential(username, ask_for(secret, purpose=purpose or "git", timeout=timeout)[secret])
        out.write(answer.encode("utf-8", "surrogateescape"))
        out.flush()
    except SecretBrokerError:
        click.echo("quit=1")  # git must not ask a person, or an agent, to type it in
        raise
