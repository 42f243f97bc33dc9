"""`secret-broker leases`: who holds what now, or held it."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from broker_worker.cli.run_name import of_agent
from broker_worker.cli.runs import open_ledger
from broker_worker.cli.table import show_table
from broker_worker.cli.times import now_ms, show_span, show_time
from broker_worker.ledger.queries import LeaseRow, list_leases
from broker_worker.settings import Settings


@click.group()
def leases() -> None:
    """List leases: who holds which secret, since when, until when."""


@leases.command("list")
@click.option("--agent", help="Only this agent's, and what it holds for others.")
@click.option("--run", help="Only this run's (RUN or AGENT/RUN), and what it holds for others.")
@click.option("--secret", help="Only those of this secret.")
@click.option("--all", "all_of_them", is_flag=True, help="Those that ended as well.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="The newest how many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_command(
    settings: Settings,
    agent: str | None,
    run: str | None,
    secret: str | None,
    all_of_them: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List open leases, newest first."""
    now = now_ms()
    agent, run = of_agent(agent, run)
    found = list_leases(
        open_ledger(settings),
        agent=agent,
        run=run,
        secret=secret,
        open_at=None if all_of_them else now,
        limit=limit,
    )
    show_leases(found, now, as_json=as_json)


def show_leases(found: Sequence[LeaseRow], now: int, *, as_json: bool) -> None:
    """Print leases.

    Args:
        found: the leases.
        now: the time, ms since the epoch.
        as_json: one JSON object a line, times in ms since the epoch.
    """
    if as_json:
        for lease in found:
            click.echo(json.dumps(lease_document(lease, now)))
        return
    if not found:
        click.echo("the ledger has no such lease", err=True)
        return
    show_table(
        ("LEASE", "AGENT/RUN", "HELD BY", "SECRET", "VERSION", "SINCE", "UNTIL", "USES", "FROM"),
        [
            (
                lease.lease_id,
                f"{lease.agent_id}/{lease.run_id}",
                lease.keeper or "itself",
                lease.secret_name,
                lease.version or "-",
                show_time(lease.issued_at),
                _until(lease, now),
                str(lease.uses),
                _from(lease),
            )
            for lease in found
        ],
    )


def lease_document(lease: LeaseRow, now: int) -> dict[str, object]:
    """A lease as JSON shows it: its columns, whether it is open, and when it ended or will end."""
    return {**asdict(lease), "open": lease.is_open(now), "until": lease.until}


def _from(lease: LeaseRow) -> str:
    """Where its value came from, and how old it was at most when it was served."""
    if lease.source in (None, "provider"):
        return "vault" if lease.source else "-"
    word = "cache" if lease.source == "cache" else "stale cache"
    return word if lease.age_s is None else f"{word}, {show_span(lease.age_s * 1000)} old"


def _until(lease: LeaseRow, now: int) -> str:
    if lease.is_open(now):
        return f"{show_time(lease.until)} (in {show_span(lease.until - now)})"
    if lease.until == lease.expires_at:
        return f"{show_time(lease.until)} expired"
    why = lease.end_reason if lease.until == lease.ended_at else "revoked"
    return f"{show_time(lease.until)} ended: {why or '-'}"
