"""Checks of the vaults: whether they serve, and what their credentials reach beyond the registry."""

import asyncio
from collections.abc import Sequence

from broker_worker.app.clock import SystemClock
from broker_worker.app.compose import providers_of
from broker_worker.cli.doctor.check import Check, failed, ok, warn
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ProviderError
from broker_worker.core.references import scheme_of
from broker_worker.ports import Scope
from broker_worker.providers.resilient import ResilientProvider
from broker_worker.settings import Settings

_PROVIDER_SECONDS = 20.0
_NAMED = 5


async def check_providers(settings: Settings, configuration: Configuration) -> list[Check]:
    """Ask every vault how it is. Values are asked for only where nobody counts that."""
    found: list[Check] = []
    metered = {section.type for section in configuration.providers if section.budget is not None}
    schemes: dict[ResilientProvider, list[str]] = {}
    for scheme, provider in providers_of(configuration, settings, SystemClock()).items():
        schemes.setdefault(provider, []).append(scheme)
    for provider, served in schemes.items():
        entries = {e.ref: e.name for e in configuration.registry.values() if scheme_of(e.ref) in served}
        name = f"provider {provider.name}"
        try:
            async with asyncio.timeout(_PROVIDER_SECONDS):
                found += await _check_provider(name, provider, entries, is_metered=provider.name in metered)
        except TimeoutError:
            found.append(failed(name, f"no answer within {_PROVIDER_SECONDS:.0f} s", "is its network reachable?"))
        finally:
            await provider.close()
    return found


async def _check_provider(
    name: str, provider: ResilientProvider, entries: dict[str, str], *, is_metered: bool
) -> list[Check]:
    health = await provider.health()
    if not health.ok:
        return [failed(name, health.detail, health.hint)]
    if is_metered:
        served = ok(name, f"{health.detail}; its {len(entries)} references were not asked for: each would cost a read")
    else:
        served = await _check_values(name, health.detail, provider, entries)
    return [served, *await _check_scope(f"{name} scope", provider, tuple(entries))]


async def _check_values(name: str, detail: str, provider: ResilientProvider, entries: dict[str, str]) -> Check:
    answers = await provider.get_many(tuple(entries))
    missing = [(entries[ref], answer) for ref, answer in answers.items() if isinstance(answer, ProviderError)]
    if missing:
        secret, error = missing[0]
        detail = f"{detail}; {len(missing)} of {len(entries)} secrets have no value, the first: {secret}"
        return warn(name, detail, error.hint or str(error))
    return ok(name, f"{detail}; all {len(entries)} secrets have a value")


async def _check_scope(name: str, provider: ResilientProvider, refs: Sequence[str]) -> list[Check]:
    """What its credential reaches beyond the registry; nothing is said where the vault does not tell."""
    try:
        scope = await provider.visible(refs)
    except ProviderError as error:
        return [warn(name, f"what it reaches could not be asked: {error}", error.hint)]
    if scope is None:
        return []
    if not scope.beyond and not scope.can_write:
        return [ok(name, f"it reaches no {scope.noun} that no secret needs")]
    return [warn(name, _reach(scope), scope.hint)]


def _reach(scope: Scope) -> str:
    writes = "it may write as well as read" if scope.can_write else ""
    if not scope.beyond:
        return writes
    more = "" if len(scope.beyond) <= _NAMED else f" and {len(scope.beyond) - _NAMED} more"
    beyond = (
        f"it reaches {len(scope.beyond)} {scope.noun} that no secret needs: {', '.join(scope.beyond[:_NAMED])}{more}"
    )
    return f"{beyond}; {writes}" if writes else beyond
