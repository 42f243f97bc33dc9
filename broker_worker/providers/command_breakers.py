"""Circuit breakers of commands: one that hangs, or always fails, is left alone, and the others are run as before.

They follow the rules of vaults (`core.vault_state`), in each process for itself. A command that hangs or cannot be
started is left alone as a whole; one that ends with a failure is so for the one reference, since a program uses one
exit code for many things and may only lack that secret.
"""

from collections.abc import Callable
from typing import Final

import structlog

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import Moment, VaultState, admit, after_failure, new_state
from broker_worker.providers.governor import NotAskedError

_OF_THE_COMMAND: Final = frozenset({FailureKind.TIMEOUT, FailureKind.UNREACHABLE})
_FAILURES: Final = _OF_THE_COMMAND | {FailureKind.UNKNOWN}
_SALT: Final = bytes(16)
_log = structlog.get_logger()


class CommandBreakers:
    """Keeps count of how commands fail, and says so in the log when one begins to, and when it ends.

    Args:
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._states: dict[str, VaultState] = {}
        self._failing: dict[str, FailureKind] = {}

    def check(self, called: str, ref: str) -> None:
        """Let a run go.

        Raises:
            NotAskedError: if the command is left alone, with the time after which it is tried.
        """
        for key in (called, ref):
            state = self._states.get(key)
            if state is None:
                continue
            self._states[key], outcome = admit(state, self._moment(), (0,))
            if isinstance(outcome, ProviderError):
                text = str(outcome).replace("it is not asked again", "it is not run again")
                raise NotAskedError(outcome.kind, text, retry_after=outcome.retry_after, hint=outcome.hint)

    def note(self, called: str, ref: str, outcome: object) -> None:
        """Note how a run ended.

        Args:
            called: the command.
            ref: what it was run for: a reference, or one with what is done there.
            outcome: a value, or why there is none.
        """
        failure = outcome if isinstance(outcome, ProviderError) and outcome.kind in _FAILURES else None
        if failure is None:
            self._over(called, called)
            self._over(called, ref)
            return
        key = called if failure.kind in _OF_THE_COMMAND else ref
        state = self._states.get(key) or new_state(self._moment(), _SALT)
        self._states[key] = after_failure(state, self._moment(), failure, is_rationed=False)
        if key is ref:  # it ended by itself: it does not hang
            self._over(called, called)
        if self._failing.get(key) is not failure.kind:
            self._failing[key] = failure.kind
            _log.error("command_failed", command=called, kind=failure.kind.value, error=str(failure), hint=failure.hint)

    def _over(self, called: str, key: str) -> None:
        self._states.pop(key, None)
        if self._failing.pop(key, None) is not None:
            _log.info("command_serves_again", command=called)

    def _moment(self) -> Moment:
        now = int(self._monotonic() * 1000)
        return Moment(now, now, "")
