"""`secret-broker doctor`: what is wrong with this installation, one line a check, with what to do about it."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from broker_worker.app.clock import SystemClock
from broker_worker.app.compose import providers_of
from broker_worker.cli.doctor import host
from broker_worker.cli.doctor.check import Check, Status, failed, guarded, of_error, ok, warn
from broker_worker.cli.doctor.queue import check_queue
from broker_worker.cli.root import FOUND_WRONG, printable
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError, ProviderError
from broker_worker.core.references import scheme_of
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.ports import Provider
from broker_worker.settings import Settings

_PROVIDER_SECONDS = 20.0
_METERED = ("op",)  # every reference that is asked for counts against the account's daily quota
_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def doctor(settings: Settings, as_json: bool) -> None:
    """Check this installation: files, keys, policy, vault, queue, audit.

    Each line is ok, warn or FAIL, with what to do. The exit code is 1 if there is a FAIL. A broker need not run.
    """
    found = []
    for check in examine(settings):
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


def examine(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which problems are best mended; none of them changes anything."""
    configuration, refused = _configuration(settings)
    yield from guarded("version", lambda: host.check_version(settings))
    yield from guarded("embedded server", lambda: host.check_server(settings))
    yield from guarded("home", lambda: host.check_home(settings))
    if not settings.keys_dir.is_dir():
        return
    yield from guarded("keys", lambda: host.check_keys(settings, configuration))
    if configuration is None:
        yield refused
    else:
        yield from guarded("configuration", lambda: host.check_policy(configuration))
        yield from guarded("provider", lambda: asyncio.run(_check_providers(settings, configuration)))
    yield from guarded("audit", lambda: host.check_audit(settings))
    yield from guarded("memory", lambda: host.check_memory(settings))
    agents = () if configuration is None else tuple(configuration.policy.agents)
    yield from guarded("queue", lambda: check_queue(settings, load_seed(settings.keys_dir / QUEUE), agents))


def _configuration(settings: Settings) -> tuple[Configuration | None, Check]:
    try:
        return load_configuration(settings.config_dir), ok("configuration", "valid")
    except BrokerError as error:
        return None, of_error("configuration", error)


async def _check_providers(settings: Settings, configuration: Configuration) -> list[Check]:
    found = []
    for scheme, provider in providers_of(configuration, settings, SystemClock()).items():
        name = f"provider {provider.name}"
        try:
            async with asyncio.timeout(_PROVIDER_SECONDS):
                found.append(await _check_provider(name, scheme, provider, configuration))
        except TimeoutError:
            found.append(failed(name, f"no answer within {_PROVIDER_SECONDS:.0f} s", "is its network reachable?"))
        finally:
            await provider.close()
    return found


async def _check_provider(name: str, scheme: str, provider: Provider, configuration: Configuration) -> Check:
    health = await provider.health()
    if not health.ok:
        return failed(name, health.detail, health.hint)
    entries = {entry.ref: entry.name for entry in configuration.registry.values() if scheme_of(entry.ref) == scheme}
    if scheme in _METERED:
        return ok(name, f"{health.detail}; its {len(entries)} references were not asked for")
    answers = await provider.get_many(tuple(entries)) if entries else {}
    missing = [(entries[ref], answer) for ref, answer in answers.items() if isinstance(answer, ProviderError)]
    if missing:
        secret, error = missing[0]
        detail = f"{health.detail}; {len(missing)} of {len(entries)} secrets have no value, the first: {secret}"
        return warn(name, detail, error.hint or str(error))
    return ok(name, f"{health.detail}; all {len(entries)} secrets have a value")


def _print(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLOURS[check.status], bold=check.status is not Status.OK)
    click.echo(f"{status}  {check.name}: {printable(check.detail)}")
    if check.hint:
        click.echo(f"      hint: {printable(check.hint)}")
