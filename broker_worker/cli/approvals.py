"""`secret-broker approvals`, `approve`, `deny`: what people are asked, and their answers from the terminal."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from agent_sdk.cli.error_group import printable
from broker_worker.cli.table import show_table
from broker_worker.cli.times import now_ms, show_span
from broker_worker.core.approvals import MAX_REASON, sign_decision
from broker_worker.core.approvers import Approvers
from broker_worker.core.errors import SetupError
from broker_worker.people.approver_key import ApproverKey, default_key_path, load_approver_key
from broker_worker.people.current_rules import CurrentRules
from broker_worker.people.inbox import Inbox, Item, open_inbox
from broker_worker.people.wording import describe, grant_text
from broker_worker.settings import Settings

PASSPHRASE_VARIABLE = "SECRET_BROKER_APPROVER_PASSPHRASE"  # noqa: S105  # the name of a variable
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_AS = click.option("--as", "name", metavar="NAME", help="Who decides; whoever has the key, if left out.")
_KEY = click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your key's file, if not approver.key in your configuration folder.",
)


@click.group()
def approvals() -> None:
    """Show what people are asked."""


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what is decided, expired or void.")
@_JSON
@click.pass_obj
def list_command(settings: Settings, everything: bool, as_json: bool) -> None:
    """List what waits for a decision, the newest first."""
    items = asyncio.run(_items(settings))
    shown = [item for item in items if everything or item.state == "waiting"]
    if as_json:
        click.echo(json.dumps([_as_json(item) for item in shown], indent=2))
        return
    if not shown:
        click.echo("nothing waits for a decision" if not everything else "nobody was asked anything")
        return
    titles = ("id", "state", "agent", "run", "secrets", "good for", "left", "purpose")
    show_table(titles, [_row(item, now_ms()) for item in shown])


async def _items(settings: Settings) -> Sequence[Item]:
    async with open_inbox(settings, CurrentRules(settings.config_dir), now_ms) as inbox:
        return inbox.items()


def _row(item: Item, now: int) -> tuple[str, ...]:
    request = item.request
    left = show_span(request.expires_at - now) if item.state == "waiting" else "-"
    names = ", ".join(request.names)
    return (
        item.approval_id,
        item.state,
        request.agent_id,
        request.run_id,
        names,
        grant_text(request.grant),
        left,
        request.purpose,
    )


def _as_json(item: Item) -> dict[str, Any]:
    request = item.request
    return {
        "approval_id": item.approval_id,
        "digest": request.digest().hex(),
        "state": item.state,
        "missing": item.missing,
        "agent_id": request.agent_id,
        "run_id": request.run_id,
        "task": request.task,
        "secret_names": list(request.names),
        "action": request.action,
        "writes": request.writes or None,
        "purpose": request.purpose,
        "grant": request.grant,
        "approvers": list(request.approvers),
        "quorum": request.quorum,
        "asked_today": request.asked_today,
        "rule": request.rule,
        "policy": request.policy,
        "asked_at": request.asked_at,
        "expires_at": request.expires_at,
        "decisions": [
            {"approver": each.approver, "verdict": each.verdict, "at": each.decided_at, "reason": each.reason}
            for each in item.matter.decisions.values()
        ],
    }


@approvals.command("show")
@click.argument("approval_id", metavar="ID")
@_JSON
@click.pass_obj
def show_command(settings: Settings, approval_id: str, as_json: bool) -> None:
    """Say plainly what is asked: who, in which run, what, why, how long, and how often today.

    ID may be the beginning of an id, if no other begins alike.
    """
    item = asyncio.run(_found(settings, approval_id))
    if as_json:
        click.echo(json.dumps(_as_json(item), indent=2))
    else:
        _show(item)


async def _found(settings: Settings, approval_id: str) -> Item:
    async with open_inbox(settings, CurrentRules(settings.config_dir), now_ms) as inbox:
        return inbox.find(approval_id)


def _show(item: Item) -> None:
    click.echo(f"approval {item.approval_id}")
    for label, text in describe(item, now_ms()):
        click.echo(f"  {label:<9} {printable(text)}")


@approvals.command("watch")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def watch_command(settings: Settings, as_json: bool) -> None:
    """Show what waits, and then whatever is asked, decided or expires, until interrupted."""
    asyncio.run(_watch(settings, as_json=as_json))


async def _watch(settings: Settings, *, as_json: bool) -> None:
    async with open_inbox(settings, CurrentRules(settings.config_dir), now_ms) as inbox:
        is_first = True
        async for items in inbox.watch():
            for item in reversed(items):
                if is_first and item.state != "waiting":
                    continue
                if as_json:
                    click.echo(json.dumps(_as_json(item)))
                elif item.state == "waiting" and not item.matter.decisions:
                    _show(item)
                else:
                    click.echo(f"approval {item.approval_id}: {_outcome(item)}")
            sys.stdout.flush()
            is_first = False


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_AS
@_KEY
@click.pass_obj
def approve(settings: Settings, ids: tuple[str, ...], name: str | None, key: Path | None) -> None:
    """Allow what is asked, with a signature of your key; ID may be the beginning of an id.

    What is signed is shown. Your key's passphrase is asked for, or read from SECRET_BROKER_APPROVER_PASSPHRASE.
    """
    _decide(settings, ids, "approve", "", name, key)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; it stands in the audit. Never a secret value.")
@_AS
@_KEY
@click.pass_obj
def deny(settings: Settings, ids: tuple[str, ...], reason: str, name: str | None, key: Path | None) -> None:
    """Refuse what is asked, with a signature of your key; one denial is enough, also after an approval.

    ID may be the beginning of an id.
    """
    if not reason.strip() or len(reason) > MAX_REASON:
        raise click.BadParameter(f"expected 1 to {MAX_REASON} characters", param_hint="--reason")
    _decide(settings, ids, "deny", reason, name, key)


Verdict = Literal["approve", "deny"]


def _decide(
    settings: Settings, ids: Sequence[str], verdict: Verdict, reason: str, name: str | None, key: Path | None
) -> None:
    own = load_approver_key(key or default_key_path())
    person = _person(CurrentRules(settings.config_dir)().approvers, own, name)
    asyncio.run(_submit(settings, ids, verdict, reason, person, own))


def _person(approvers: Approvers, key: ApproverKey, name: str | None) -> str:
    """Whose key it is, before a passphrase is asked for."""
    holder = approvers.holder_of(key.public)
    if holder is None:
        hint = "`secret-broker approvers add NAME --key PUBLIC` adds it; `approvers list` shows who may decide"
        raise SetupError(f"approvers.yaml lists nobody with the key of {key.path}", hint=hint)
    if name is not None and holder.name != name:
        raise SetupError(f"the key of {key.path} is {holder.name}'s, not {name}'s", hint="name another file with --key")
    return holder.name


async def _submit(
    settings: Settings, ids: Sequence[str], verdict: Verdict, reason: str, person: str, key: ApproverKey
) -> None:
    async with open_inbox(settings, CurrentRules(settings.config_dir), now_ms) as inbox:
        items = {item.approval_id: item for item in (inbox.find(text) for text in ids)}
        for item in items.values():
            inbox.check(item, verdict)
        for item in items.values():
            _show(item)
        secret = key.unlock(_passphrase)
        for item in items.values():
            await _sign(inbox, item, verdict, reason, person, secret)
            if item.state == "approved":  # and now denied
                run = f"{item.request.agent_id}/{item.request.run_id}"
                click.echo(f"note: what {run} was given before that, it has: `leases list`, `revoke`", err=True)


async def _sign(inbox: Inbox, item: Item, verdict: Verdict, reason: str, person: str, secret: bytes) -> None:
    digest = item.request.digest()
    decided = await inbox.submit(sign_decision(digest, verdict, person, now_ms(), secret, reason))
    said = "approve" if verdict == "approve" else f"deny ({printable(reason)})"
    click.echo(f"signed as {person}: {said} {digest.hex()}; {_outcome(decided)}")


def _outcome(item: Item) -> str:
    if item.state != "waiting":
        return item.state
    return f"waits for {item.missing} more of {', '.join(item.request.approvers)}"


def _passphrase() -> str:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if passphrase:
        return passphrase
    if not sys.stdin.isatty():
        raise SetupError(
            "your key has a passphrase, and there is no terminal to ask for it", hint=f"set {PASSPHRASE_VARIABLE}"
        )
    return str(click.prompt("Passphrase of your key", hide_input=True, err=True))
