"""`secret-broker ledger`: keep the run ledger, make it again from the audit, and say how it is."""

import json
import os
import signal
import threading
from typing import Any

import click
from redis import Redis
from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from broker_worker.cli.audit_text import finding_line
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.cli.table import show_table
from broker_worker.cli.times import show_time
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import PUBLIC_IDENTITY, load_broker_keys, load_public_identity, load_seed
from broker_worker.ledger.database import check_tables, database_errors, name_of, open_database
from broker_worker.ledger.history import missing_beginnings
from broker_worker.ledger.keeping import GROUP, Keeper
from broker_worker.ledger.keeping import rebuild as fill_again
from broker_worker.ledger.queries import LedgerStatus, read_status
from broker_worker.queue.acl import CONSOLE, LEDGER
from broker_worker.queue.login import process_url
from broker_worker.settings import Settings

_MANY = 20


@click.group()
def ledger() -> None:
    """Keep the run ledger: the audit as a database that can be asked."""


@ledger.command()
@click.option("--until-stdin-ends", is_flag=True, hidden=True, help="Stop when standard input ends.")
@click.pass_obj
def run(settings: Settings, until_stdin_ends: bool) -> None:
    """Project the audit into the ledger until SIGTERM; a part of `secret-broker up`.

    The database is SQLite in the home, or what LEDGER_URL names. Begins with the audit's files where they are on this
    host, goes on with the queue's stream, and waits where either or the database is away.
    """
    engine = open_database(settings.ledger_address, writing=True)
    url = process_url(settings.queue_address, settings.keys_dir, LEDGER, load_seed)
    keeper = Keeper(engine, url, _identity(settings), settings.audit_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())
    if until_stdin_ends:
        threading.Thread(target=_stop_at_the_end, args=(keeper,), name="supervisor-watch", daemon=True).start()
    with database_errors(engine):
        keeper.run()


@ledger.command()
@click.option("--drop-missing", is_flag=True, help="Also when the files lack what the ledger has.")
@click.pass_obj
def rebuild(settings: Settings, drop_missing: bool) -> None:
    """Empty the ledger and fill it again from the audit's files; every line is verified.

    Exits with 1 if something is wrong with the files. Refuses if chains in the ledger have no beginning in the files,
    because they were archived or written on another host.
    """
    engine = open_database(settings.ledger_address, writing=True)
    identity = _identity(settings)
    with database_errors(engine):
        if not drop_missing:
            _refuse_loss(settings)
        result = fill_again(engine, settings.audit_dir, identity)
    for finding in result.findings[:_MANY]:
        click.echo(finding_line(finding))
    if len(result.findings) > _MANY:
        click.echo(f"… and {len(result.findings) - _MANY} more")
    click.echo(f"{name_of(engine)}: {result.events} events, {len(result.findings)} findings")
    if any(not finding.is_warning for finding in result.findings):
        raise click.exceptions.Exit(FOUND_WRONG)


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Say how much the ledger holds, up to when, and how far behind the stream it is."""
    engine = open_database(settings.ledger_address)
    check_tables(engine)
    found = read_status(engine)
    lag = stream_lag(settings)
    if as_json:
        chains = [{name: getattr(chain, name) for name in type(chain).__dataclass_fields__} for chain in found.chains]
        counts = {name: getattr(found, name) for name in _COUNTS}
        document = {"database": name_of(engine), **counts, "newest_at": found.newest_at, "lag": lag, "chains": chains}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(name_of(engine))
    click.echo("  " + ", ".join(f"{getattr(found, name)} {name}" for name in _COUNTS))
    click.echo(f"  newest event: {'none' if found.newest_at is None else show_time(found.newest_at)}")
    click.echo(f"  not read yet: {'unknown, the queue was not asked' if lag is None else f'{lag} stream entries'}")
    _show_chains(found)


_COUNTS = ("events", "runs", "leases", "approvals", "findings")


def _show_chains(found: LedgerStatus) -> None:
    if found.chains:
        rows = [(each.worker, each.chain, str(each.next_sequence), show_time(each.updated_at)) for each in found.chains]
        show_table(("WORKER", "CHAIN", "LINES", "LAST"), rows)


def _identity(settings: Settings) -> bytes:
    """The public half of the broker's identity, which is all that is needed; older homes have only both halves."""
    if (settings.keys_dir / PUBLIC_IDENTITY).exists():
        return load_public_identity(settings.keys_dir)
    return load_broker_keys(settings.keys_dir).identity_public


def _refuse_loss(settings: Settings) -> None:
    engine = open_database(settings.ledger_address)
    try:
        check_tables(engine)
    except SetupError:
        return  # nothing to lose, or the rebuild itself says what is wrong
    chains = [chain.chain for chain in read_status(engine).chains]
    if not chains or not settings.audit_dir.is_dir():
        return
    missing = missing_beginnings(settings.audit_dir, chains)
    if missing:
        raise SetupError(
            f"the ledger has {len(missing)} chains of which {settings.audit_dir} lacks the beginning, such as "
            f"{missing[0]}; a rebuild would lose their events",
            hint="put archived files back into one folder, or pass --drop-missing",
        )


def stream_lag(settings: Settings) -> int | None:
    """How many entries of the stream the ledger has not read; None if the queue does not say."""
    try:
        with Redis.from_url(_login(settings), protocol=2, socket_timeout=5.0, socket_connect_timeout=2.0) as client:
            groups: Any = client.xinfo_groups(keynames.AUDIT)
    except (RedisError, SetupError):
        return None
    lags = [group.get("lag") for group in groups if group["name"] == GROUP.encode()]
    return int(lags[0]) if lags and lags[0] is not None else None


def _login(settings: Settings) -> str:
    """The queue's URL, for whoever this home has a password of: the ledger's process or people's side."""
    try:
        return process_url(settings.queue_address, settings.keys_dir, LEDGER, load_seed)
    except SetupError:
        return process_url(settings.queue_address, settings.keys_dir, CONSOLE, load_seed)


def _stop_at_the_end(keeper: Keeper) -> None:
    while os.read(0, 4096):  # unbuffered: a reader that waits must not hold a lock when the process ends
        pass
    keeper.stop()
