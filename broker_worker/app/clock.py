"""The host's clocks, behind the port that everything else is handed."""

import time


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back."""
        return time.monotonic_ns() // 1_000
