"""The vaults that the operator's files configure, each with its guard: where every process that uses them begins."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache

from broker_worker.app.clock import SystemClock
from broker_worker.core.configuration import Configuration
from broker_worker.files.keys import load_seed
from broker_worker.ports import DynamicProvider, Provider
from broker_worker.providers.governor import governor_of
from broker_worker.providers.options import Surroundings
from broker_worker.providers.resilient import ResilientProvider, resilient
from broker_worker.providers.schemes import check_configuration, make_providers
from broker_worker.settings import Settings
from broker_worker.state.vault_states import VaultStates


class CriticalReferences:
    """The references that may use the reserve of their vault's budget; a reload changes them.

    Args:
        configuration: the files in force.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._refs = configuration.critical_refs()

    def replace(self, configuration: Configuration) -> None:
        """Take what other files say."""
        self._refs = configuration.critical_refs()

    def __contains__(self, ref: str) -> bool:
        return ref in self._refs


def providers_of(
    configuration: Configuration, settings: Settings, clock: SystemClock, critical: CriticalReferences | None = None
) -> Mapping[str, ResilientProvider]:
    """The providers that the operator's files configure, by scheme; nothing is contacted yet.

    Args:
        configuration: the operator's files.
        settings: where everything lives.
        clock: the host's clocks.
        critical: what may use the reserve of a budget; that of the files if None.

    Raises:
        ConfigError: if a section or a reference cannot be used.
    """
    check_configuration(configuration)
    around = Surroundings(
        vault_file=settings.vault_file,
        vault_key_file=settings.keys_dir / "vault.key",
        load_vault_key=load_seed,
        environ=dict(os.environ),
        now=clock.now,
    )
    states = VaultStates(settings.vault_states_dir, clock)
    budgets = {section.type: section.budget for section in configuration.providers}
    is_critical = (critical or CriticalReferences(configuration)).__contains__
    wrapped: dict[Provider, ResilientProvider] = {}
    made = make_providers(configuration.providers, around)
    for provider in made.values():
        if provider not in wrapped:
            governor = governor_of(provider, states, budgets.get(provider.name))
            wrapped[provider] = resilient(provider, governor, is_critical)
    return {scheme: wrapped[provider] for scheme, provider in made.items()}


def provider_names(providers: Mapping[str, Provider]) -> Callable[[str], str]:
    """Tells the name of the provider that serves a reference."""
    names = {scheme: provider.name for scheme, provider in providers.items()}
    return lru_cache(maxsize=4096)(lambda ref: names.get(ref.partition("://")[0], "none"))


def has_dynamic(configuration: Configuration, settings: Settings) -> bool:
    """Whether a configured provider makes credentials that must be taken back.

    Raises:
        ConfigError: if a provider's section cannot be used.
    """
    return any(
        isinstance(each, DynamicProvider) for each in providers_of(configuration, settings, SystemClock()).values()
    )
