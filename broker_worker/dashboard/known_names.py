"""The names that the operator's files know: secrets and agents, without what they refer to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker_worker.core.errors import BrokerError
from broker_worker.core.policy import Origin
from broker_worker.dashboard.context import Context


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What the files name, and where.

    Args:
        secrets: the registry's names.
        agents: the policy's agents.
        fault: why the files could not be read; empty if they could.
    """

    secrets: Mapping[str, Origin] = field(default_factory=dict)
    agents: Mapping[str, Origin] = field(default_factory=dict)
    fault: str = ""


def known_names(context: Context) -> KnownNames:
    """Read them as they are now. Without them a page still shows what the ledger knows, and says what is missing."""
    try:
        configuration = context.configuration()
    except BrokerError as error:
        return KnownNames(fault=str(error))
    secrets = {name: entry.origin for name, entry in configuration.registry.items()}
    agents = {name: agent.origin for name, agent in configuration.policy.agents.items()}
    return KnownNames(secrets, agents)
