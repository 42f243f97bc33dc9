"""What tests of vaults in trouble share: states that can be lost, and providers wrapped as the broker wraps them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from desk_workbench import NOW

from broker_worker.core.budget import Budget
from broker_worker.core.errors import SetupError
from broker_worker.core.vault_state import Moment, VaultState, breaker_of, new_state
from broker_worker.ports import Provider
from broker_worker.providers.governor import governor_of
from broker_worker.providers.resilient import ResilientProvider, resilient

T = TypeVar("T")


@dataclass
class StateNotebook:
    """Implements `ports.VaultStates` in memory; a test turns its clock, and breaks it like a disk."""

    now: int = NOW
    kept: dict[str, VaultState] = field(default_factory=dict)
    broken: SetupError | None = None
    changes: int = 0
    steps: int = 0

    def moment(self) -> Moment:
        return Moment(self.now, self.now, "boot")

    def look(self, vault: str) -> VaultState:
        if self.broken is not None:
            raise self.broken
        return self.kept.get(vault) or new_state(self.moment(), bytes(16))

    def change(self, vault: str, step: Callable[[VaultState, Moment], tuple[VaultState, T]]) -> T:
        self.steps += 1
        before = self.look(vault)
        self.kept[vault], result = step(before, self.moment())
        self.changes += self.kept[vault] is not before
        return result

    def breaker(self, vault: str) -> str:
        """Where a vault's breaker stands."""
        return breaker_of(self.look(vault), self.moment())

    def reads(self, vault: str) -> int:
        """How many reads a vault was asked for."""
        return sum(self.look(vault).reads.values())


def hardened(
    vault: Provider,
    states: StateNotebook | None = None,
    budget: Budget | None = None,
    is_critical: Callable[[str], bool] = lambda _: False,
    **limits: Any,
) -> ResilientProvider:
    """A provider as the broker wraps it, with states of its own unless some are given; waits are short."""
    governor = governor_of(vault, states or StateNotebook(), budget)
    return resilient(vault, governor, is_critical, **{"backoff": 0.002, **limits})
