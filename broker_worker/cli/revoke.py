"""`secret-broker revoke`, `reinstate`, `revocations`: what must not be served, whatever the policy says."""

import asyncio
import getpass
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.audit import format_time
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError
from broker_worker.core.revocations import KINDS, Kind, Revocation
from broker_worker.files.configuration import load_configuration
from broker_worker.people.revoking import MAX_TEXT, NotAnnouncedError, orders_of
from broker_worker.people.revoking import reinstate as give_back
from broker_worker.people.revoking import revoke as refuse
from broker_worker.settings import Settings

_WHAT_ENDS = "its open leases end within a second, and its agents are told to drop their copies"
_MEANING = {
    "run": "whatever this run asks is refused from now on; " + _WHAT_ENDS,
    "agent": "whatever this agent asks, in any run, is refused from now on; " + _WHAT_ENDS,
    "secret": "nobody gets it from now on; " + _WHAT_ENDS,
    "lease": "it ends within a second and cannot be renewed; the run may still ask anew",
    "token": "whatever is asked with this token is refused from now on; " + _WHAT_ENDS,
}
_STILL_VALID = "the value itself still works wherever it was used: change it in the vault and at its service"
_GIVEN_BACK = "the policy decides again; leases that ended stay ended, and runs may ask anew"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_VERSION = click.option("--version", metavar="V", help="Only this version of the secret.")


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        return "unknown"


def check_words(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """What an operator says must fit into an order (click's callback)."""
    if text is not None and (not text.strip() or len(text) > MAX_TEXT):
        raise click.BadParameter(f"expected 1 to {MAX_TEXT} characters, found {len(text.strip())}")
    return text


_REASON = click.option(
    "--reason", required=True, callback=check_words, help="Why; it stands in the audit. Never a secret value."
)
BY = click.option(
    "--by",
    callback=check_words,
    default=_os_user,
    show_default="the user of this system",
    help="Who orders it; it stands in the audit.",
)


@click.group()
def revoke() -> None:
    """Refuse a run, an agent, a secret, a lease or a token, until it is reinstated.

    Every worker refuses within a second, open leases end, and the SDKs are told to drop their copies. Orders are signed
    and kept in state/revocations.jsonl, so that a wiped queue undoes none.
    """


def _command(kind: Kind, argument: str, summary: str, *, versions: bool = False) -> click.Command:
    def order(settings: Settings, /, **given: Any) -> None:
        _give(settings, kind, given.pop("subject"), revoking=True, **given)

    command = click.pass_obj(order)
    for option in (_JSON, BY, _REASON, *([_VERSION] if versions else []), click.argument("subject", metavar=argument)):
        command = option(command)
    return click.command(kind, help=summary)(command)


revoke.add_command(_command("run", "AGENT/RUN", "Refuse whatever one run asks; end its leases."))
revoke.add_command(_command("agent", "AGENT", "Refuse whatever an agent asks, in any run; end its leases."))
revoke.add_command(_command("secret", "NAME", "Give a secret to nobody; end its leases.", versions=True))
revoke.add_command(_command("lease", "ID", "End one lease."))
revoke.add_command(_command("token", "JTI", "Refuse whatever is asked with one identity token; end its leases."))


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("subject")
@_VERSION
@_REASON
@BY
@_JSON
@click.pass_obj
def reinstate(settings: Settings, /, kind: Kind, subject: str, **given: Any) -> None:
    """Serve again what was revoked, as far as the policy allows. Leases that ended stay ended."""
    _give(settings, kind, subject, revoking=False, **given)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.pass_obj
def revocations(settings: Settings, as_json: bool) -> None:
    """List what is refused now, the newest first."""
    orders = sorted(orders_of(settings), key=lambda each: each.at, reverse=True)
    if as_json:
        click.echo(json.dumps([_as_json(each) for each in orders]))
        return
    for each in orders:
        line = f"{format_time(each.at)}  {each.label}  by {each.by}: {each.reason}"
        click.echo(printable(line))
    if not orders:
        click.echo("nothing is revoked")


def _give(
    settings: Settings,
    kind: Kind,
    subject: str,
    *,
    revoking: bool,
    reason: str,
    by: str,
    as_json: bool,
    version: str | None = None,
) -> None:
    give = partial(refuse if revoking else give_back, settings, kind, subject, version=version, reason=reason, by=by)
    unannounced = None
    try:
        revocation = asyncio.run(give())
    except NotAnnouncedError as error:
        unannounced, revocation = error, error.revocation
    if as_json:
        click.echo(json.dumps({**_as_json(revocation), "announced": unannounced is None}))
    else:
        click.echo(f"{'revoked' if revoking else 'reinstated'} {printable(revocation.label)}")
        if revoking:
            click.echo(f"  {_MEANING[kind]}")
            if kind == "secret":
                click.echo(f"  {_STILL_VALID}")
        else:
            click.echo(f"  {_GIVEN_BACK}")
        for note in _doubts(settings, kind, subject) if revoking else ():
            click.echo(f"note: {note}", err=True)
    if unannounced is not None:
        _tell_unannounced(settings, unannounced)


def _tell_unannounced(settings: Settings, error: NotAnnouncedError) -> None:
    """With a queue of this host's own the file is all that counts; workers elsewhere need the queue."""
    if settings.redis_url is not None:
        raise error
    click.echo("note: the embedded queue does not run; workers of this host take the order from its file", err=True)


def _doubts(settings: Settings, kind: Kind, subject: str) -> Iterator[str]:
    """What makes a slip of the pen likely: the order stands all the same."""
    try:
        configuration: Configuration = load_configuration(settings.config_dir)
    except BrokerError:
        return
    agent = subject.partition("/")[0]
    if kind in ("agent", "run") and agent not in configuration.policy.agents:
        yield f"the policy has no agent {printable(agent)}"
    if kind == "secret" and configuration.entry_of(subject) is None:
        yield "secrets.yaml has no secret of that name"


def _as_json(revocation: Revocation) -> dict[str, object]:
    return {
        "revocation_id": revocation.revocation_id,
        "order": revocation.order,
        "kind": revocation.kind,
        "subject": revocation.subject,
        "version": revocation.version,
        "at": format_time(revocation.at),
        "reason": revocation.reason,
        "by": revocation.by,
    }
