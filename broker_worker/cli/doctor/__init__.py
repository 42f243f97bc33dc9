"""`secret-broker doctor`: what is wrong with this installation, one line a check, with what to do about it."""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict

import click

from agent_sdk.cli.error_group import printable
from broker_worker.cli.doctor import host
from broker_worker.cli.doctor.check import Check, Status, guarded, of_error, ok
from broker_worker.cli.doctor.provider import check_providers
from broker_worker.cli.doctor.queue import check_queue
from broker_worker.cli.doctor.sealed_cache import check_sealed_cache
from broker_worker.cli.doctor.state import check_state
from broker_worker.cli.doctor.ways_in import check_gateway, check_proxy, check_tokens
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.settings import Settings

PARTS = (
    "version", "server", "home", "keys", "state", "configuration", "tokens", "provider", "cache", "audit", "memory",
    "queue", "egress", "gateway",
)  # fmt: skip
"""What can be checked by itself, in this order."""
_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Check this part only; may be repeated.")
@click.option("--running", is_flag=True, help="The broker is meant to run: it is a FAIL if it does not.")
@click.pass_obj
def doctor(settings: Settings, as_json: bool, only: tuple[str, ...], running: bool) -> None:
    """Check this installation: files, keys, policy, vault, audit, queue, egress proxy, gateway.

    Each line is ok, warn or FAIL, with what to do. The exit code is 1 if there is a FAIL. The broker need not run.
    """
    found = []
    for check in examine(settings, only or PARTS, running=running):
        found.append(check)
        if not as_json:
            _print(check)
    failures = sum(check.status is Status.FAIL for check in found)
    warnings = sum(check.status is Status.WARN for check in found)
    if as_json:
        click.echo(json.dumps({"ok": not failures, "checks": [asdict(check) for check in found]}))
    else:
        click.echo(f"checks: {len(found)}, failed: {failures}, warnings: {warnings}")
    if failures:
        raise click.exceptions.Exit(FOUND_WRONG)


def examine(settings: Settings, parts: Collection[str] = PARTS, *, running: bool = False) -> Iterator[Check]:
    """Every check of some parts, in the order in which problems are best mended.

    None of them changes anything, but that what they read from a vault is counted.

    Args:
        settings: the installation.
        parts: which of `PARTS`.
        running: whether the broker is meant to run.
    """
    configuration, refused = _configuration(settings)
    told = [] if "configuration" in parts else [refused]  # once, but whoever asks for less must not get nothing
    agents = () if configuration is None else tuple(configuration.policy.agents)
    checks: dict[str, Callable[[], Iterable[Check]]] = {
        "version": lambda: host.check_version(settings),
        "server": lambda: host.check_server(settings),
        "home": lambda: host.check_home(settings),
        "keys": lambda: host.check_keys(settings, configuration),
        "state": lambda: check_state(settings),
        "configuration": lambda: [refused] if configuration is None else host.check_policy(configuration),
        "tokens": lambda: told if configuration is None else check_tokens(configuration),
        "provider": lambda: told if configuration is None else asyncio.run(check_providers(settings, configuration)),
        "cache": lambda: told if configuration is None else check_sealed_cache(settings, configuration),
        "audit": lambda: host.check_audit(settings),
        "memory": lambda: host.check_memory(settings),
        "queue": lambda: check_queue(settings, load_seed(settings.keys_dir / QUEUE), agents, running=running),
        "egress": lambda: told if configuration is None else check_proxy(settings, configuration, running=running),
        "gateway": lambda: told if configuration is None else check_gateway(configuration, running=running),
    }
    for part, check in checks.items():
        no_installation = part == "home" and not settings.keys_dir.is_dir()
        if part in parts or no_installation:
            yield from guarded(part, check)
        if no_installation:
            return  # everything else would say the same once more


def _configuration(settings: Settings) -> tuple[Configuration | None, Check]:
    try:
        return load_configuration(settings.config_dir), ok("configuration", "valid")
    except BrokerError as error:
        return None, of_error("configuration", error)


def _print(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLOURS[check.status], bold=check.status is not Status.OK)
    click.echo(f"{status}  {check.name}: {printable(check.detail)}")
    if check.hint:
        click.echo(f"      hint: {printable(check.hint)}")
