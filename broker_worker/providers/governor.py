"""Whether a vault may be asked now: its circuit breaker and its budget of reads, shared by all workers of the home.

If what is shared cannot be read or written (a full disk, a damaged file), nobody knows how much was read. Then a vault
with a budget is asked for critical secrets only, each process on its own and for no more than the reserve; a vault
without one is asked as usual, its breaker kept by each process for itself.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.core.vault_state import (
    Moment,
    VaultState,
    admit,
    after_failure,
    after_success,
    new_state,
    refuses_us,
)
from broker_worker.ports import CredentialedProvider, Provider, VaultStates

T = TypeVar("T")
_log = structlog.get_logger()


class NotAskedError(ProviderError):
    """A vault that was not asked: it is left alone for now, or its budget is used up."""


class Governor:
    """Lets calls go to one vault.

    Args:
        vault: the provider's name.
        states: what all workers know together.
        budget: how many reads there may be; None for no budget.
        fingerprint: tells the vault's credential from others (`ports.CredentialedProvider`); None if it has none.
        is_refused_for_good: whether a refused credential stays so until it is replaced; without effect without one.
    """

    def __init__(
        self,
        vault: str,
        states: VaultStates,
        budget: Budget | None = None,
        fingerprint: Callable[[bytes], str] | None = None,
        *,
        is_refused_for_good: bool = True,
    ) -> None:
        self._vault = vault
        self._states = states
        self._budget = budget
        self._fingerprint = fingerprint
        self._is_rationed = budget is not None or (fingerprint is not None and is_refused_for_good)
        self._thread = ThreadPoolExecutor(1, f"governor-{vault}")  # its own: others may be full of calls that hang
        self._own = new_state(states.moment(), secrets.token_bytes(16))
        self._is_unusable = False

    async def admit(self, costs: Sequence[int], *, critical: bool) -> int:
        """Let a call go.

        Args:
            costs: how many reads it costs with its first reference, its first two, and so on.
            critical: whether it may use the reserve.

        Returns:
            How many of the references may be asked for, at least one.

        Raises:
            NotAskedError: if none; `retry_after` says when that changes.
        """
        outcome = await self._in_thread(self._admit, tuple(costs), critical)
        if isinstance(outcome, ProviderError):
            raise _not_asked(outcome)
        return outcome

    async def refusal(self) -> NotAskedError | None:
        """Why the vault is left alone now, if it refused us."""
        return await self._in_thread(self._refusal)

    async def served(self) -> None:
        """Note that the vault answered."""
        await self._in_thread(self._note, lambda state, moment: (after_success(state, moment), None))

    async def failed(self, error: ProviderError) -> None:
        """Note that a call failed as a whole."""

        def step(state: VaultState, moment: Moment) -> tuple[VaultState, None]:
            credential = self._credential(state) if error.kind is FailureKind.UNAUTHENTICATED else ""
            return after_failure(state, moment, error, credential, is_rationed=self._is_rationed), None

        await self._in_thread(self._note, step)

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _refusal(self) -> NotAskedError | None:
        try:
            state, moment = self._states.look(self._vault), self._states.moment()
        except SetupError:
            return None
        outcome = self._step(state, moment, (0,), None, critical=True)[1]
        is_refused = isinstance(outcome, ProviderError) and refuses_us(outcome.kind)
        return _not_asked(outcome) if isinstance(outcome, ProviderError) and is_refused else None

    def _admit(self, costs: tuple[int, ...], critical: bool) -> int | ProviderError:
        budget = self._budget
        try:
            if budget is None and self._states.look(self._vault).trouble is None:
                self._say_usable()
                return len(costs)
            outcome = self._states.change(self._vault, lambda s, m: self._step(s, m, costs, budget, critical=critical))
        except SetupError as error:
            self._say_unusable(error)
            if budget is not None:
                budget = budget.reserve() if critical else None
                if budget is None:
                    message = f"reads cannot be counted, and only critical secrets are fetched meanwhile: {error}"
                    return ProviderError(FailureKind.OVER_BUDGET, message, hint=error.hint)
        else:
            self._say_usable()
            return outcome
        return self._change_own(lambda s, m: self._step(s, m, costs, budget, critical=True))

    def _step(
        self, state: VaultState, moment: Moment, costs: tuple[int, ...], budget: Budget | None, *, critical: bool
    ) -> tuple[VaultState, int | ProviderError]:
        credential = self._credential(state) if state.trouble is not None and state.trouble.credential else ""
        return admit(state, moment, costs, budget=budget, critical=critical, credential=credential)

    def _note(self, step: Callable[[VaultState, Moment], tuple[VaultState, None]]) -> None:
        try:
            seen = self._states.look(self._vault)
            if step(seen, self._states.moment())[0] is not seen:
                self._states.change(self._vault, step)
        except SetupError as error:
            self._say_unusable(error)
        self._change_own(step)

    def _change_own(self, step: Callable[[VaultState, Moment], tuple[VaultState, T]]) -> T:
        self._own, result = step(self._own, self._states.moment())
        return result

    def _credential(self, state: VaultState) -> str:
        try:
            return "" if self._fingerprint is None else self._fingerprint(bytes.fromhex(state.salt))
        except Exception as error:  # noqa: BLE001  # a credential that cannot be read is none; the call will say why
            _log.debug("no_fingerprint", provider=self._vault, error=type(error).__name__)
            return ""

    def _say_unusable(self, error: SetupError) -> None:
        if not self._is_unusable:
            self._is_unusable = True
            _log.error("vault_state_unusable", provider=self._vault, error=str(error), hint=error.hint)

    def _say_usable(self) -> None:
        if self._is_unusable:
            self._is_unusable = False
            _log.info("vault_state_usable_again", provider=self._vault)


def governor_of(provider: Provider, states: VaultStates, budget: Budget | None) -> Governor:
    """The governor of a provider's vault, which knows its credential where it has one that can be replaced.

    Args:
        provider: the provider that asks the vault.
        states: what all workers know together.
        budget: how many reads there may be; None for no budget.
    """
    if not isinstance(provider, CredentialedProvider):
        return Governor(provider.name, states, budget)
    is_final = provider.is_refused_for_good
    return Governor(provider.name, states, budget, provider.fingerprint, is_refused_for_good=is_final)


def _not_asked(error: ProviderError) -> NotAskedError:
    return NotAskedError(error.kind, str(error), retry_after=error.retry_after, hint=error.hint)
