"""Waiting longer after each failure, so that a Vault that refuses us is not asked again and again.

The layer that all vaults share (`providers.governor`) does that for reads and writes. Taking credentials back waits for
no breaker there, so that it is not given up with the rest: each of many orders would log in anew with what was refused.
"""

from collections.abc import Callable

from broker_worker.core.errors import ProviderError


class Cooldown:
    """Answers from memory for a while after a failure; twice as long after each further one.

    Args:
        first_seconds: the wait after the first failure.
        most_seconds: the longest wait.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(self, first_seconds: float, most_seconds: float, monotonic: Callable[[], float]) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._monotonic = monotonic
        self._wait = 0.0
        self._until = 0.0
        self._error: ProviderError | None = None

    def begin(self, error: ProviderError) -> None:
        """Start waiting because of `error`; without effect while a wait is on, whose cause counts already."""
        if self.error() is not None:
            return
        self._wait = min(self._wait * 2 or self._first, self._most)
        self._until = self._monotonic() + self._wait
        self._error = error

    def error(self) -> ProviderError | None:
        """The failure that is still waited out, with the rest of the wait as `retry_after`; None if there is none."""
        rest = self._until - self._monotonic()
        if self._error is None or rest <= 0:
            return None
        message = f"{self._error}; it is not asked again for {rest:.0f} s"
        return ProviderError(self._error.kind, message, retry_after=int(rest * 1000), hint=self._error.hint)

    def reset(self) -> None:
        """Forget all failures: it works again."""
        self._wait = 0.0
        self._error = None
