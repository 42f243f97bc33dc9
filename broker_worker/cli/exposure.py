"""`secret-broker exposure`: which runs hold or held a secret, and ending exactly what is open of that."""

import asyncio
import getpass
import json
from collections.abc import Sequence
from contextlib import suppress

import click

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_secret_name
from broker_worker.cli.leases import lease_document, show_leases
from broker_worker.cli.ledger import stream_lag
from broker_worker.cli.revoke import check_words
from broker_worker.cli.runs import open_ledger
from broker_worker.cli.times import now_ms, show_time
from broker_worker.core.errors import BrokerError
from broker_worker.files.configuration import load_configuration
from broker_worker.ledger.queries import LeaseRow, list_leases
from broker_worker.people.revoking import NotAnnouncedError, revoke_all
from broker_worker.settings import Settings

_MOST = 100_000


def _check_name(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    try:
        return check_secret_name(name)
    except WireError as error:
        raise click.BadParameter(str(error)) from None


def _os_user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


@click.command()
@click.option("--secret", required=True, callback=_check_name, help="The secret's name.")
@click.option("--version", metavar="V", help="Only this version of it.")
@click.option("--revoke", "revoking", is_flag=True, help="End the leases that are open, and no others.")
@click.option(
    "--reason", callback=check_words, help="Why, with --revoke; it stands in the audit. Never a secret value."
)
@click.option(
    "--by",
    callback=check_words,
    default=_os_user,
    show_default="the user of this system",
    help="Who orders it; it stands in the audit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def exposure(
    settings: Settings, secret: str, version: str | None, revoking: bool, reason: str | None, by: str, as_json: bool
) -> None:
    """Say which runs hold or held a secret, since when and until when.

    A lease that ended does not say that the run forgot the value: what leaked is changed at its service.
    """
    if revoking and not reason:
        raise click.UsageError("--revoke needs --reason")
    now = now_ms()
    engine = open_ledger(settings)
    lag = stream_lag(settings)  # asked before, so that 0 means that nothing granted until now is missing
    found = list_leases(engine, secret=secret, version=version, limit=_MOST)
    open_ones = [lease for lease in found if lease.is_open(now)]
    if not as_json:
        _show(secret, version, found, open_ones, now)
    _note_lag(lag)
    if not found:
        _note_unknown(settings, secret)
    ended = asyncio.run(_end(settings, open_ones, reason or "", by)) if revoking else []
    if as_json:
        document = {"secret": secret, "version": version, "leases": [lease_document(lease, now) for lease in found]}
        click.echo(json.dumps({**document, "open": len(open_ones), "revoked": ended}))
    elif revoking:
        told = "; the runs are told to drop their copies" if ended else ": none is open"
        click.echo(f"revoked {_count(len(ended), 'lease')}{told}")


def _show(secret: str, version: str | None, found: Sequence[LeaseRow], open_ones: Sequence[LeaseRow], now: int) -> None:
    runs = {(lease.agent_id, lease.run_id) for lease in found}
    what = printable(secret + ("" if version is None else f", version {version}"))
    click.echo(f"{what}: {_count(len(runs), 'run')} in {_count(len(found), 'lease')}, {len(open_ones)} open now")
    if found:
        first, last = min(lease.issued_at for lease in found), max(lease.until for lease in found)
        click.echo(f"held between {show_time(first)} and {show_time(last)}")
        show_leases(found, now, as_json=False)


def _note_unknown(settings: Settings, secret: str) -> None:
    with suppress(BrokerError):
        if load_configuration(settings.config_dir).entry_of(secret) is None:
            click.echo("note: secrets.yaml has no secret of that name", err=True)


def _note_lag(lag: int | None) -> None:
    if lag is None:
        click.echo("note: the queue does not say whether the ledger is up to date", err=True)
    elif lag:
        click.echo(f"note: the ledger is {_count(lag, 'stream entry', 'stream entries')} behind; ask again", err=True)


async def _end(settings: Settings, leases: Sequence[LeaseRow], reason: str, by: str) -> list[str]:
    """Revoke the leases by one write; what the queue does not take still holds on this host."""
    ids = [lease.lease_id for lease in leases]
    try:
        await revoke_all(settings, "lease", ids, reason=reason, by=by)
    except NotAnnouncedError as error:
        count = _count(len(error.revocations), "order")
        click.echo(f"note: {count} in force on this host only: the queue took none", err=True)
    return ids


def _count(number: int, noun: str, many: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {many or noun + 's'}"
