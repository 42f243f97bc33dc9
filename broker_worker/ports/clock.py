"""The time, passed in so that tests can turn it."""

from typing import Protocol


class Clock(Protocol):
    """The time, passed in so that tests can turn it."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back."""
        ...
