"""`secret-broker runs`: which runs there were, and the story of one in order."""

import json
from dataclasses import asdict

import click
from sqlalchemy import Engine

from agent_sdk.cli.error_group import printable
from agent_sdk.wire.audit import decode_line
from broker_worker.cli.audit_text import event_json, event_line
from broker_worker.cli.run_name import of_agent
from broker_worker.cli.table import show_table
from broker_worker.cli.times import now_ms, read_time, show_time
from broker_worker.core.errors import BrokerError
from broker_worker.ledger.database import check_tables, open_database
from broker_worker.ledger.queries import LeaseRow, RunRow, list_leases, list_runs, story
from broker_worker.settings import Settings

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


class NoSuchRunError(BrokerError):
    """The ledger knows no run of a name, or several."""

    code = "no_such_run"


@click.group()
def runs() -> None:
    """List runs, and tell the story of one."""


@runs.command("list")
@click.option("--agent", help="Only this agent's.")
@click.option("--since", callback=read_time, metavar="TIME", help="Active since: 30s, 15m, 1h, 2d ago, or a time.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@_JSON
@click.pass_obj
def list_command(settings: Settings, agent: str | None, since: int | None, limit: int, as_json: bool) -> None:
    """List the runs that were active last, newest first."""
    found = list_runs(open_ledger(settings), agent=agent, since=since, limit=limit)
    if as_json:
        for run in found:
            click.echo(json.dumps(asdict(run)))
        return
    if not found:
        click.echo("the ledger has no such run", err=True)
        return
    show_table(
        ("LAST", "AGENT", "RUN", "GRANTED", "REFUSED", "TASK"),
        [
            (show_time(run.last_at), run.agent_id, run.run_id, str(run.granted), str(run.refused), _remark(run))
            for run in found
        ],
    )


@runs.command()
@click.argument("run")
@click.option("--agent", help="Whose run, if several agents have one of that name.")
@_JSON
@click.pass_obj
def show(settings: Settings, run: str, agent: str | None, as_json: bool) -> None:
    """Tell what happened in RUN (or AGENT/RUN), in order.

    Requests, refusals, approvals, leases and revocations; then what it holds now.
    """
    engine = open_ledger(settings)
    found = _find(engine, run, agent)
    events = [decode_line(event.line.encode()) for event in story(engine, found.agent_id, found.run_id)]
    if as_json:
        for event in events:
            click.echo(event_json(event))
        return
    now = now_ms()
    click.echo(printable(f"{found.agent_id}/{found.run_id}{'  task: ' + found.task if found.task else ''}"))
    click.echo(f"{show_time(found.first_at)} to {show_time(found.last_at)}: {found.granted} granted, ", nl=False)
    click.echo(f"{found.refused} refused{_revoked(found)}")
    for event in events:
        click.echo("  " + event_line(event))
    open_leases = list_leases(engine, agent=found.agent_id, run=found.run_id, open_at=now)
    whose = (found.agent_id, found.run_id)
    own = [_held(lease) for lease in open_leases if (lease.agent_id, lease.run_id) == whose]
    kept = [_kept(lease) for lease in open_leases if (lease.agent_id, lease.run_id) != whose]
    click.echo(f"holds now: {', '.join(own) or 'nothing'}")
    if kept:
        click.echo(f"holds for others: {', '.join(kept)}")


def open_ledger(settings: Settings) -> Engine:
    """The ledger, to be asked.

    Raises:
        SetupError: if there is none, or another version's.
    """
    engine = open_database(settings.ledger_address)
    check_tables(engine)
    return engine


def _find(engine: Engine, run: str, agent: str | None) -> RunRow:
    agent, name = of_agent(agent, run)
    found = list_runs(engine, agent=agent, run=name)
    if not found:
        raise NoSuchRunError(
            f"the ledger knows no run {run[:200]!r}", hint="`secret-broker runs list` shows them; is the ledger kept?"
        )
    if len(found) > 1:
        agents = ", ".join(row.agent_id for row in found)
        raise NoSuchRunError(f"several agents have a run {name!r}: {agents}", hint=f"write {found[0].agent_id}/{name}")
    return found[0]


def _remark(run: RunRow) -> str:
    return (run.task or "-") + _revoked(run)


def _revoked(run: RunRow) -> str:
    return "" if run.revoked_at is None else f"; revoked {show_time(run.revoked_at)}"


def _held(lease: LeaseRow) -> str:
    by = "" if lease.keeper is None else f" ({lease.keeper} has it)"
    return f"{lease.secret_name} until {show_time(lease.expires_at)}{by}"


def _kept(lease: LeaseRow) -> str:
    return f"{lease.secret_name} for {lease.agent_id}/{lease.run_id} until {show_time(lease.expires_at)}"
