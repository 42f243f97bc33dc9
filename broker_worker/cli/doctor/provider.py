"""Checks of the vaults: whether they serve, and what their credentials reach beyond the registry."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from broker_worker.app.clock import SystemClock
from broker_worker.app.vaults import providers_of
from broker_worker.cli.doctor.check import Check, failed, of_error, ok, warn
from broker_worker.core.commands import command_and_name
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError, ProviderError
from broker_worker.core.references import SCHEMES, scheme_of
from broker_worker.ports import Scope
from broker_worker.providers.resilient import ResilientProvider
from broker_worker.settings import Settings

_PROVIDER_SECONDS = 20.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Needs:
    """What secrets need of one vault.

    Args:
        entries: the registry's references, and whose they are.
        configuration: says what else is needed: drafts of rotations, and places of names that agents create.
        schemes: what the vault's references begin with.
    """

    entries: dict[str, str]
    configuration: Configuration
    schemes: Sequence[str]

    def places(self) -> tuple[str, ...]:
        """The registry's references, those of drafts, and one for each rule of `create_in`."""
        return (*self.entries, *(ref for ref in self._made_here() if scheme_of(ref) in self.schemes))

    def written(self) -> frozenset[str]:
        """Those of `places` that are written: by agents, as the policy has it, by rotations, or as new names."""
        registry = self.configuration.registry.values()
        entries = {
            entry.ref
            for entry in registry
            if entry.rotation is not None or self.configuration.policy.may_be_written(entry.name)
        }
        return frozenset(ref for ref in (*entries, *self._made_here()) if scheme_of(ref) in self.schemes)

    def _made_here(self) -> list[str]:
        rotations = [entry.rotation for entry in self.configuration.registry.values() if entry.rotation is not None]
        return [rule.draft for rule in rotations] + [rule.entry_of("name").ref for rule in self.configuration.create_in]

    def is_of_a_created_name(self, place: str) -> bool:
        """Whether a place is where a name is kept that agents may create."""
        names = (
            (rule, rule.name_at(f"{scheme}://{place}"))
            for scheme in self.schemes
            for rule in self.configuration.create_in
        )
        return any(name is not None and rule.pattern.matches(name) for rule, name in names)


async def check_providers(settings: Settings, configuration: Configuration) -> list[Check]:
    """Ask every vault how it is, section by section: one that cannot be used hides nothing of the others.

    Values are asked for only where nobody counts that.
    """
    found: list[Check] = []
    for section in configuration.providers:
        name, schemes = f"provider {section.type}", dict[ResilientProvider, list[str]]()
        try:
            providers = providers_of(replace(configuration, providers=(section,)), settings, SystemClock())
        except BrokerError as error:
            found.append(of_error(name, error))
            continue
        for scheme, provider in providers.items():
            schemes.setdefault(provider, []).append(scheme)
        for provider, served in schemes.items():
            entries = {e.ref: e.name for e in configuration.registry.values() if scheme_of(e.ref) in served}
            found += await _examined(
                name, provider, _Needs(entries, configuration, served), is_metered=section.budget is not None
            )
    return found


async def _examined(name: str, provider: ResilientProvider, needs: _Needs, *, is_metered: bool) -> list[Check]:
    try:
        async with asyncio.timeout(_PROVIDER_SECONDS):
            try:
                return await _check_provider(name, provider, needs, is_metered=is_metered)
            finally:
                await provider.close()
    except TimeoutError:
        return [failed(name, f"no answer within {_PROVIDER_SECONDS:.0f} s", "is its network reachable?")]
    except Exception as error:  # noqa: BLE001  # a defect, perhaps of foreign code, whose text may hold a value
        return [failed(name, f"its check ended with {type(error).__name__}", "this is a defect of the provider")]


async def _check_provider(name: str, provider: ResilientProvider, needs: _Needs, *, is_metered: bool) -> list[Check]:
    entries = needs.entries
    health = await provider.health()
    if not health.ok:
        return [failed(name, health.detail, health.hint)]
    if is_metered:
        served = ok(name, f"{health.detail}; its {len(entries)} references were not asked for: each would cost a read")
    else:
        served = await _check_values(name, health.detail, provider, entries)
    return [served, *await _check_scope(f"{name} scope", provider, needs)]


async def _check_values(name: str, detail: str, provider: ResilientProvider, entries: dict[str, str]) -> Check:
    asked = _asked(tuple(entries))
    answers = await provider.get_many(asked)
    missing = [(entries[ref], answer) for ref, answer in answers.items() if isinstance(answer, ProviderError)]
    if missing:
        secret, error = missing[0]
        detail = f"{detail}; {len(missing)} of {len(asked)} secrets have no value, the first: {secret}"
        return warn(name, detail, error.hint or str(error))
    if len(asked) < len(entries):
        return ok(name, f"{detail}; {len(asked)} of {len(entries)} secrets were asked for and have a value")
    return ok(name, f"{detail}; all {len(entries)} secrets have a value")


def _asked(refs: Sequence[str]) -> Sequence[str]:
    """The references to ask for: of what may count them unknown to us, one of each command, or one."""
    chosen: dict[str, str] = {}
    for ref in refs:
        scheme, _, path = ref.partition("://")
        group = command_and_name(path)[0] if scheme == "exec" else ref if scheme in SCHEMES else scheme
        chosen.setdefault(f"{scheme}:{group}", ref)
    return tuple(chosen.values())


async def _check_scope(name: str, provider: ResilientProvider, needs: _Needs) -> list[Check]:
    """What its credential reaches beyond what secrets need, and what of that the vault does not tell."""
    try:
        scope = await provider.visible(needs.places(), needs.written())
    except ProviderError as error:
        return [warn(name, f"what it reaches could not be asked: {error}", error.hint)]
    if scope is None:
        return [ok(name, "what its credential reaches, and whether it may write, is not told")]
    scope = replace(scope, beyond=tuple(place for place in scope.beyond if not needs.is_of_a_created_name(place)))
    said = "; ".join((*_excess(scope), *scope.untold))
    if not scope.is_narrow:
        return [warn(name, said, scope.hint)]
    reaches = f"it reaches no {scope.noun} that no secret needs"
    return [ok(name, f"{reaches}; {said}" if said else reaches)]


def _excess(scope: Scope) -> Iterator[str]:
    """What a credential can do that nothing needs, a phrase each."""
    if scope.powers:
        yield f"it may {'; it may '.join(scope.powers)}"
    if scope.beyond:
        yield f"it reaches {len(scope.beyond)} {scope.noun} that no secret needs: {_named(scope.beyond)}"
    if scope.writes:
        yield f"it may write in {len(scope.writes)} places where nothing writes: {_named(scope.writes)}"


def _named(names: Sequence[str]) -> str:
    more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED} more"
    return f"{', '.join(names[:_NAMED])}{more}"
