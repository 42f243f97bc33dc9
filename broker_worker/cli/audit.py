"""`secret-broker audit`: verify, follow and search what was recorded."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click
import redis

from agent_sdk.wire.audit import EventType, event_schema, format_time
from broker_worker.audit.anchors import StreamEntry
from broker_worker.audit.follow import Follower
from broker_worker.audit.report import Report
from broker_worker.audit.search import Query, search
from broker_worker.audit.stream import read_stream
from broker_worker.audit.verify import verify_folder
from broker_worker.cli.audit_export import export
from broker_worker.cli.audit_text import event_json, event_line, finding_line
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.cli.run_name import of_agent
from broker_worker.core.errors import AuditError
from broker_worker.files.keys import QUEUE, load_broker_keys, load_seed
from broker_worker.files.quantities import parse_duration
from broker_worker.queue.acl import broker_url
from broker_worker.settings import Settings

_POLL_SECONDS = 0.25

_folder_option = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="The audit folder, if not the home's."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def _read_time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A time as `1h` ago or in ISO 8601, in the audit's own form."""
    if value is None:
        return None
    with suppress(ValueError):
        return format_time(int((time.time() - parse_duration(value)) * 1000))
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return format_time(int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is no time: expected 30s, 15m, 1h, 2d or 2026-01-31T12:00:00Z") from None


def _read_identity(_ctx: click.Context, _param: click.Parameter, value: str | None) -> bytes | None:
    if value is None:
        return None
    with suppress(ValueError):
        key = base64.urlsafe_b64decode(value.encode("ascii") + b"=")
        if len(key) == 32:
            return key
    raise click.BadParameter("expected the broker's public key as `secret-broker keys show` prints it")


@click.group()
def audit() -> None:
    """Verify, follow and search what was recorded."""


@audit.command()
@_folder_option
@click.option("--stream", is_flag=True, help="Compare with the checkpoints on the queue's stream as well.")
@click.option("--worker", "workers", multiple=True, help="Verify only this worker's chains; may be repeated.")
@click.option("--allow-pruned", is_flag=True, help="The oldest files may be missing: they were archived.")
@click.option(
    "--identity",
    callback=_read_identity,
    metavar="KEY",
    help="The broker's public key, if not that of the home's keys.",
)
@click.option("--strict", is_flag=True, help="Fail on warnings as well.")
@_json_option
@click.pass_obj
def verify(
    settings: Settings,
    folder: Path | None,
    stream: bool,
    workers: tuple[str, ...],
    allow_pruned: bool,
    identity: bytes | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Find and locate every change to the audit: lines changed, removed, inserted, moved or cut off.

    Exits with 1 if anything is wrong. Warnings are what a crash or a running broker leaves behind.
    """
    identity = identity or load_broker_keys(settings.keys_dir).identity_public
    folder = _existing(settings, folder)
    with _stream(settings, wanted=stream) as entries:
        report = verify_folder(folder, identity, entries, workers=workers, allow_pruned=allow_pruned)
    if as_json:
        click.echo(json.dumps(_as_json(report)))
    else:
        _show(report, folder)
    if not report.ok or (strict and report.warnings):
        raise click.exceptions.Exit(FOUND_WRONG)


@audit.command()
@_folder_option
@click.option("-n", "--lines", type=click.IntRange(0, 100_000), default=20, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@_json_option
@click.pass_obj
def tail(settings: Settings, folder: Path | None, lines: int, follow: bool, as_json: bool) -> None:
    """Show the newest events of all workers."""
    follower = Follower(_existing(settings, folder))
    show = event_json if as_json else event_line
    for event in follower.last(lines):
        click.echo(show(event))
    _note_unreadable(follower.unreadable)
    while follow:
        time.sleep(_POLL_SECONDS)
        for event in follower.poll():
            click.echo(show(event))


@audit.command()
@_folder_option
@click.option("--agent", help="Only this agent.")
@click.option("--run", help="Only this run: RUN or AGENT/RUN.")
@click.option("--secret", help="Only this secret name.")
@click.option("--outcome", type=click.Choice(["granted", "refused"]), help="Only this outcome.")
@click.option("--event", type=click.Choice(get_args(EventType)), help="Only this type; checkpoints only if asked for.")
@click.option(
    "--since",
    callback=_read_time,
    metavar="TIME",
    help="Not older: 30s, 15m, 1h, 2d ago, or a time like 2026-01-31T12:00:00Z.",
)
@click.option("--until", callback=_read_time, metavar="TIME", help="Not newer; as --since.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest how many.")
@_json_option
@click.pass_obj
def query(
    settings: Settings,
    folder: Path | None,
    agent: str | None,
    run: str | None,
    secret: str | None,
    outcome: str | None,
    event: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Find events, oldest first; what was found is not verified."""
    agent, run = of_agent(agent, run)
    wanted = Query(agent=agent, run=run, secret=secret, outcome=outcome, event=event, since=since, until=until)
    found = search(_existing(settings, folder), wanted, limit)
    for one in found.events:
        click.echo(event_json(one) if as_json else event_line(one))
    if not found.events:
        click.echo("the audit has no such event", err=True)
    _note_unreadable(found.unreadable)


@audit.command()
def schema() -> None:
    """Print the JSON Schema of one event."""
    click.echo(json.dumps(event_schema(), indent=2))


audit.add_command(export)


def _existing(settings: Settings, folder: Path | None) -> Path:
    """The folder that was named, or the home's once there is one."""
    if folder is not None:
        return folder
    if settings.config_dir.is_dir() and not settings.audit_dir.exists():
        raise AuditError(
            f"nothing has been recorded yet: there is no {settings.audit_dir}",
            hint="`secret-broker up` begins the audit; if there was one, its folder is gone",
        )
    return settings.audit_dir


@contextmanager
def _stream(settings: Settings, *, wanted: bool) -> Iterator[Iterator[StreamEntry] | None]:
    if not wanted:
        yield None
        return
    url = broker_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE))
    with redis.Redis.from_url(url, protocol=2, socket_timeout=30.0, socket_connect_timeout=5.0) as client:
        yield read_stream(client)


def _as_json(report: Report) -> dict[str, object]:
    findings = [
        {
            "fault": finding.fault.value,
            "warning": finding.is_warning,
            "file": finding.file,
            "line": finding.line,
            "sequence": finding.sequence,
            "detail": finding.detail,
        }
        for finding in report.findings
    ]
    counts = {name: getattr(report, name) for name in ("workers", "chains", "files", "lines", "checkpoints", "more")}
    return {"ok": report.ok, **counts, "findings": findings}


def _show(report: Report, folder: Path) -> None:
    for finding in report.findings:
        click.echo(finding_line(finding))
    if report.more:
        click.echo(f"… and {report.more} more")
    what = (
        f"{_count(report.lines, 'line')} with {_count(report.checkpoints, 'signed checkpoint')} in "
        f"{_count(report.files, 'file')}, {_count(report.chains, 'chain')} of {_count(report.workers, 'worker')} "
        f"in {folder}"
    )
    if report.ok:
        warned = f", {_count(len(report.warnings), 'warning')}" if report.warnings else ""
        click.echo(f"ok: {what}{warned}")
    else:
        click.echo(f"FAILED: {_count(len(report.problems) + report.more, 'problem')}; {what}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _note_unreadable(count: int) -> None:
    if count:
        said = f"{_count(count, 'line')} cannot be read as audit events"
        click.echo(f"{said}; `secret-broker audit verify` says which", err=True)
