"""`secret-broker providers`: how the vaults are, as all workers of this home know, and what is left to be read."""

import asyncio
import json
from typing import Any

import click

from agent_sdk.cli.error_group import printable
from broker_worker.app.clock import SystemClock
from broker_worker.app.vaults import providers_of
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.cli.table import show_table
from broker_worker.cli.times import show_span, show_time
from broker_worker.core.budget import Budget, rooms
from broker_worker.core.configuration import Configuration, ProviderSettings
from broker_worker.core.errors import SetupError
from broker_worker.core.references import SCHEMES
from broker_worker.core.vault_state import Moment, VaultState, breaker_of, time_in
from broker_worker.files.configuration import load_configuration
from broker_worker.ports import Health
from broker_worker.settings import Settings
from broker_worker.state.vault_states import VaultStates


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--check", "is_check", is_flag=True, help="Ask every vault now; exit code 1 if one does not serve.")
@click.pass_obj
def providers(settings: Settings, as_json: bool, is_check: bool) -> None:
    """Show each vault: whether it serves, why not, and how many reads are left.

    That is what the workers of this home noted. No vault is asked and no read is spent, unless --check is given.
    """
    configuration = load_configuration(settings.config_dir)
    states = VaultStates(settings.vault_states_dir, SystemClock())
    asked = asyncio.run(_ask(settings, configuration)) if is_check else {}
    found = [_document(section, states, asked.get(section.type)) for section in configuration.providers]
    if as_json:
        for document in found:
            click.echo(json.dumps(document))
    else:
        _show(found)
    if not all(document["ok"] for document in found) and is_check:
        raise click.exceptions.Exit(FOUND_WRONG)


async def _ask(settings: Settings, configuration: Configuration) -> dict[str, Health]:
    found: dict[str, Health] = {}
    for provider in set(providers_of(configuration, settings, SystemClock()).values()):
        try:
            found[provider.name] = await provider.health()
        finally:
            await provider.close()
    return found


def _document(section: ProviderSettings, states: VaultStates, asked: Health | None) -> dict[str, Any]:
    """What is known of a vault; times are ms since the epoch."""
    document: dict[str, Any] = {
        "provider": section.type,
        "schemes": [scheme for scheme, kind in SCHEMES.items() if kind == section.type],
    }
    try:
        state, moment = states.look(section.type), states.moment()
    except SetupError as error:
        kept = "" if section.budget is None else "; only critical secrets are fetched meanwhile"
        document |= {"ok": False, "state": "unknown", "why": f"{error}{kept}", "hint": error.hint, "budget": None}
    else:
        document |= _trouble(state, moment) | {"budget": _budget(section.budget, state, moment)}
    if asked is not None:
        document |= {"ok": asked.ok, "asked": asked.detail}
        document |= {} if asked.ok else {"why": asked.detail, "hint": asked.hint}
    return document


def _trouble(state: VaultState, moment: Moment) -> dict[str, Any]:
    trouble, breaker = state.trouble, breaker_of(state, moment)
    if trouble is None:
        return {"ok": True, "state": "serves", "breaker": breaker, "why": "", "hint": ""}
    rest = max(0, trouble.open_until - time_in(state, moment))
    return {
        "ok": False,
        "state": {"closed": "fails", "open": "left alone", "half-open": "tried next"}[breaker],
        "breaker": breaker,
        "kind": trouble.kind.value,
        "failures": trouble.failures,
        "since": trouble.since,
        "asked_again_at": moment.wall + rest if breaker == "open" else None,
        "why": trouble.message,
        "hint": trouble.hint,
    }


def _budget(budget: Budget | None, state: VaultState, moment: Moment) -> dict[str, Any] | None:
    if budget is None:
        return None
    now = time_in(state, moment)
    windows = zip(
        rooms(budget, state.reads, now, critical=False), rooms(budget, state.reads, now, critical=True), strict=True
    )
    return {
        "reserve_percent": budget.reserve_percent,
        **{
            others.window: {
                "limit": critical.limit,
                "left": others.left,
                "left_for_critical": critical.left,
                "more_at": None if others.more_in is None else moment.wall + others.more_in,
            }
            for others, critical in windows
        },
    }


def _show(found: list[dict[str, Any]]) -> None:
    now = SystemClock().now()
    rows = [
        (
            document["provider"],
            _state(document, now),
            _left(document["budget"], "hour", now),
            _left(document["budget"], "day", now),
        )
        for document in found
    ]
    show_table(("PROVIDER", "STATE", "LEFT THIS HOUR", "LEFT THIS DAY"), rows)
    for document in found:
        if document["why"]:
            since = f", since {show_time(document['since'])}" if document.get("since") else ""
            click.echo(f"{document['provider']}: {printable(document['why'])}{since}")
        if document["hint"]:
            click.echo(f"  hint: {printable(document['hint'])}")


def _state(document: dict[str, Any], now: int) -> str:
    again = document.get("asked_again_at")
    state: str = document["state"]
    return state if again is None else f"{state} for {show_span(again - now)}"


def _left(budget: dict[str, Any] | None, window: str, now: int) -> str:
    """What is left, of how many, how much of it is kept for critical secrets, and when there is more."""
    if budget is None or window not in budget:
        return "-"
    room = budget[window]
    kept = room["left_for_critical"] - room["left"]
    more = "" if room["more_at"] is None else f", more in {show_span(room['more_at'] - now)}"
    return f"{room['left']} of {room['limit']}{f' +{kept} critical' if kept else ''}{more}"
