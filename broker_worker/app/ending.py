"""Ending with whoever started us: a supervisor that dies takes its processes with it."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable


def on_end_of_stdin(stop: Callable[[], None]) -> None:
    """Call `stop` on the running loop when standard input ends: when whoever holds its other end is gone."""
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):  # unbuffered: a reader that waits must not hold a lock when the process ends
            pass
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending anyway
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait_for_the_end, name="supervisor-watch", daemon=True).start()
