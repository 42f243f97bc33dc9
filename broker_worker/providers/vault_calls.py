"""One call of a vault: when it is its turn, as far as the governor lets it, with a deadline, and its outcome noted.

Whatever a provider raises comes out as a `ProviderError`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import refuses_us
from broker_worker.providers.governor import Governor, NotAskedError

CALLS_AT_ONCE: Final = 4
"""Calls of one vault under way at once, in one process."""

_OF_A_WRITE: Final = frozenset({FailureKind.CONFLICT, FailureKind.READ_ONLY, FailureKind.TOO_LARGE})
"""What a vault that serves says of a write. Agents can cause it at will, and the audit has it."""

T = TypeVar("T")
_log = structlog.get_logger()


class VaultCalls:
    """Makes calls of one vault.

    Args:
        vault: the provider's name.
        governor: whether the vault may be asked now.
    """

    def __init__(self, vault: str, governor: Governor) -> None:
        self._vault = vault
        self._governor = governor
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._failing: FailureKind | None = None
        self._is_over_budget = False

    async def governed(
        self, call: Callable[[int], Awaitable[T]], costs: Sequence[int], ends: float, *, critical: bool = False
    ) -> T:
        """Make a call that costs reads.

        Args:
            call: makes it, for as many of its references as the budget allows.
            costs: how many reads it costs with its first reference, its first two, and so on.
            ends: when it must be over, on the loop's clock.
            critical: whether it may use the reserve.

        Raises:
            NotAskedError: if the vault was not asked.
            ProviderError: if it failed.
        """

        async def admission() -> int:
            count = await self._governor.admit(costs, critical=critical)
            if not critical:
                self._is_over_budget = False
            return count

        try:
            result = await self._in_turn(call, ends, admission)
        except ProviderError as error:
            self._tell(error)
            if not isinstance(error, NotAskedError):
                await self._governor.failed(error)
            raise
        await self._governor.served()
        self._tell_served()
        return result

    async def check_refusal(self) -> None:
        """Raise `NotAskedError` while a wait is on because the vault refused us."""
        refusal = await self._governor.refusal()
        if refusal is not None:
            raise refusal

    async def run(self, call: Callable[[], Awaitable[T]], ends: float) -> T:
        """Make a call that is nobody's but its own, such as giving a credential back.

        Args:
            call: makes it.
            ends: when it must be over, on the loop's clock.

        Raises:
            ProviderError: whatever it raised, or that it did not end in time.
        """
        return await self._in_turn(lambda _: call(), ends)

    async def _in_turn(
        self, call: Callable[[int], Awaitable[T]], ends: float, admission: Callable[[], Awaitable[int]] | None = None
    ) -> T:
        late: ProviderError = NotAskedError(FailureKind.TIMEOUT, "too many calls wait for this vault")
        try:
            async with asyncio.timeout_at(ends), self._turns:
                count = 0 if admission is None else await admission()
                late = ProviderError(FailureKind.TIMEOUT, "the vault did not answer in time")
                return await call(count)
        except ProviderError:
            raise
        except TimeoutError:
            failure = late
        except Exception as error:  # noqa: BLE001  # a defect in a provider must not end the worker
            _log.error("provider_defect", provider=self._vault, error=type(error).__name__)
            failure = ProviderError(FailureKind.UNKNOWN, f"the provider ended with {type(error).__name__}")
        raise failure  # outside the block above: what it caught may hold a value

    def _tell(self, error: ProviderError) -> None:
        """Log that the vault began to fail, or fails for another reason; not every failure, but every refusal of us."""
        if error.kind is FailureKind.OVER_BUDGET:
            if not self._is_over_budget:
                self._is_over_budget = True
                _log.warning("vault_budget_used_up", provider=self._vault, error=str(error), hint=error.hint)
            return
        if error.kind in _OF_A_WRITE:
            self._tell_served()
            return
        before, self._failing = self._failing, error.kind
        was_refused = refuses_us(error.kind) and not isinstance(error, NotAskedError)
        if error.kind is not before or was_refused:
            _log.error("vault_failed", provider=self._vault, kind=error.kind.value, error=str(error), hint=error.hint)

    def _tell_served(self) -> None:
        if self._failing is not None:
            self._failing = None
            _log.info("vault_serves_again", provider=self._vault)
