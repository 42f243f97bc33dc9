"""Waiting longer after each failure."""

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault.cooldown import Cooldown

REFUSED = ProviderError(FailureKind.UNAUTHENTICATED, "refused", hint="new token")


class Clock:
    """Seconds that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_failure_no_wait() -> None:
    """A fresh cooldown lets everything through."""
    assert Cooldown(60, 3600, Clock()).error() is None


def test_waits_double_up_to_the_longest() -> None:
    """60, 120, 240, 480, then 600 s for ever, each from the failure on."""
    clock = Clock()
    cooldown = Cooldown(60, 600, clock)
    waits = []
    for _ in range(6):
        cooldown.begin(REFUSED)
        error = cooldown.error()
        assert error is not None
        assert error.retry_after is not None
        waits.append(error.retry_after // 1000)
        clock.now += waits[-1]
        assert cooldown.error() is None
    assert waits == [60, 120, 240, 480, 600, 600]


def test_failures_during_a_wait_do_not_lengthen_it() -> None:
    """Calls that were under way when the wait began do not count again."""
    clock = Clock()
    cooldown = Cooldown(60, 3600, clock)
    for _ in range(5):
        cooldown.begin(REFUSED)
    clock.now += 60
    assert cooldown.error() is None


def test_error_keeps_kind_and_hint_and_tells_the_rest() -> None:
    """While waiting, callers get the same kind and hint, and how long the wait still is."""
    clock = Clock()
    cooldown = Cooldown(60, 3600, clock)
    cooldown.begin(REFUSED)
    clock.now += 45.5
    error = cooldown.error()
    assert error is not None
    assert (error.kind, error.hint, error.retry_after) == (REFUSED.kind, REFUSED.hint, 14_500)


def test_reset_forgets() -> None:
    """After a success the next failure waits the first time again."""
    clock = Clock()
    cooldown = Cooldown(60, 3600, clock)
    cooldown.begin(REFUSED)
    clock.now += 60
    cooldown.begin(REFUSED)
    cooldown.reset()
    assert cooldown.error() is None
    cooldown.begin(REFUSED)
    clock.now += 60
    assert cooldown.error() is None
