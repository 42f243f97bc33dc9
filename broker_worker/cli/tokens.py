"""`secret-broker tokens`: static tokens, for scripts that no launcher starts."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import click

from agent_sdk.cli.standard_streams import standard_output
from agent_sdk.wire.static_tokens import ENTROPY, TokenRecord, mint
from broker_worker.cli.table import show_table
from broker_worker.cli.times import now_ms, show_span, show_time
from broker_worker.core.configuration import Configuration, StaticToken
from broker_worker.core.errors import SetupError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.list_lines import NotChangedError
from broker_worker.files.quantities import parse_duration
from broker_worker.files.tokens_file import TokensFile
from broker_worker.settings import Settings


def _seconds(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


@click.group()
def tokens() -> None:
    """Issue, rotate and revoke static tokens of scripts that cannot be launched as a run."""


@tokens.command()
@click.option("--agent", required=True, metavar="ID", help="Whose token it is, as in the policy.")
@click.option("--ttl", required=True, metavar="30d", callback=_seconds, help="How long it is good; 366d at most.")
@click.pass_obj
def issue(settings: Settings, agent: str, ttl: int) -> None:
    """Make a token and print it, once: the broker keeps its SHA-256 and nothing else.

    Only the token goes to standard output: `(umask 077; secret-broker tokens issue --agent backup --ttl 30d > token)`.
    """
    _check_agent(load_configuration(settings.config_dir), agent)
    file, now = TokensFile(settings.config_dir), now_ms()
    text, record = _mint(file)
    with _or_not_at_all(file):
        file.add(record, agent, now, now + ttl * 1000)
    _hand_over(text, f"{record.token_id} of {agent}, until {show_time(now + ttl * 1000)}; see {file.path}")


@tokens.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_command(settings: Settings, as_json: bool) -> None:
    """List the tokens; what each of them is, nobody can say any more."""
    if not settings.config_dir.is_dir():
        load_configuration(settings.config_dir)  # says that it is not there; an empty list would be a lie
    known, now = TokensFile(settings.config_dir).tokens(), now_ms()
    if as_json:
        click.echo(json.dumps([_as_json(token, now) for token in known.values()], indent=2))
        return
    if not known:
        click.echo("no static tokens: `secret-broker tokens issue --agent ID --ttl 30d` makes one", err=True)
        return
    rows = [
        (token.token_id, token.agent, show_time(token.created_at), show_time(token.expires_at), _left(token, now))
        for token in known.values()
    ]
    show_table(("ID", "AGENT", "CREATED", "EXPIRES", "LEFT"), rows)


@tokens.command()
@click.argument("token_id", metavar="[ID]", required=False)
@click.option("--agent", metavar="AGENT", help="The one token of this agent that is good, in place of its id.")
@click.option(
    "--overlap",
    default="1h",
    metavar="1h",
    callback=_seconds,
    help="How long the old one stays good.",
    show_default=True,
)
@click.option(
    "--ttl", metavar="30d", callback=_seconds, help="How long the new one is good; as long as the old one was."
)
@click.pass_obj
def rotate(settings: Settings, token_id: str | None, agent: str | None, overlap: int, ttl: int | None) -> None:
    """Make a new token for the agent of an old one, print it once, and let the old one end.

    Where the old token may have been seen by somebody, revoke it instead: an overlap is time for them too.
    """
    if (token_id is None) == (agent is None):
        raise click.UsageError("give the id of a token, or --agent")
    file, now = TokensFile(settings.config_dir), now_ms()
    old = file.find(token_id) if token_id is not None else _only_of(file, agent or "", now)
    if old.expires_at <= now:
        raise SetupError(f"{old.token_id} is over already", hint="`secret-broker tokens issue` makes a new one")
    _check_agent(load_configuration(settings.config_dir), old.agent)
    lifetime = old.expires_at - old.created_at if ttl is None else ttl * 1000
    text, record = _mint(file)
    with _or_not_at_all(file):
        file.rotate(old, record, now, now + lifetime, now + overlap * 1000)
    ends = show_time(file.find(old.token_id).expires_at)
    message = f"{record.token_id} of {old.agent}, until {show_time(now + lifetime)}; {old.token_id} ends {ends}"
    _hand_over(text, f"{message}; see {file.path}")


@tokens.command()
@click.argument("token_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def revoke(settings: Settings, token_ids: tuple[str, ...]) -> None:
    """Take tokens out of the file: they are good for nothing as soon as the broker has read it, within a second.

    What they were given they have. Their leases end with `secret-broker revoke run AGENT/static-ID`.
    """
    file = TokensFile(settings.config_dir)
    for token_id in dict.fromkeys(token_ids):
        token = file.find(token_id)
        with _by_hand(file):
            file.remove(token_id)
        click.echo(f"{token_id} of {token.agent} is good for nothing any more; see {file.path}")
        click.echo(f"what it holds: secret-broker revoke run {token.agent}/{token.run_id} --reason …", err=True)


def _mint(file: TokensFile) -> tuple[str, TokenRecord]:
    """A token whose id is not taken, once there is somewhere to print it."""
    standard_output()
    known = file.tokens()
    while True:
        text, record = mint(secrets.token_bytes(ENTROPY))
        if record.token_id not in known:
            return text, record


def _hand_over(text: str, message: str) -> None:
    """Print a token where it was asked for, and everything else beside it."""
    click.echo(f"issued {message}", err=True)
    if _is_shown():
        click.echo(
            "warning: it is shown once, and stays in this terminal's history: copy it, then clear that", err=True
        )
    click.echo(text)


def _is_shown() -> bool:
    return standard_output().isatty()


def _only_of(file: TokensFile, agent: str, now: int) -> StaticToken:
    good = [token for token in file.tokens().values() if token.agent == agent and token.expires_at > now]
    if len(good) == 1:
        return good[0]
    if not good:
        raise SetupError(f"{agent!r} has no token that is good", hint="`secret-broker tokens issue` makes one")
    listed = ", ".join(token.token_id for token in good)
    raise SetupError(f"{agent!r} has several tokens: {listed}", hint="give the id of the one that is to end")


def _check_agent(configuration: Configuration, agent: str) -> None:
    agents = configuration.policy.agents
    if agent not in agents:
        near = get_close_matches(agent, agents, n=1)
        raise SetupError(
            f"the policy does not know the agent {agent!r}, so its token would be good for nothing",
            hint=f"did you mean {near[0]!r}?" if near else "write it under `agents:` in policy.yaml first",
        )


def _left(token: StaticToken, now: int) -> str:
    return show_span(token.expires_at - now) if token.expires_at > now else "over"


def _as_json(token: StaticToken, now: int) -> dict[str, object]:
    return {
        "id": token.token_id,
        "agent": token.agent,
        "run_id": token.run_id,
        "created": show_time(token.created_at).replace(" ", "T"),
        "expires": show_time(token.expires_at).replace(" ", "T"),
        "good": token.expires_at > now,
        "line": token.origin.line,
    }


@contextmanager
def _or_not_at_all(file: TokensFile) -> Iterator[None]:
    """Hand no token out whose entry could not be written."""
    try:
        yield
    except NotChangedError:
        raise SetupError(
            f"{file.path} is written in a way that this program does not dare to change; no token was made",
            hint="write each entry as `- id: …`, and its other keys on lines of their own",
        ) from None


@contextmanager
def _by_hand(file: TokensFile) -> Iterator[None]:
    """Show what a person must write, if the program does not dare to."""
    try:
        yield
    except NotChangedError as error:
        click.echo(f"{file.path} should say, {error.by_hand}", err=True)
        raise
