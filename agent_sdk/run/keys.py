"""The user's keys on their way to the command's own terminal, while ours is raw."""

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from agent_sdk.run.terminal import Terminal

_CHUNK: Final = 65536
_AGAIN_SECONDS: Final = 0.2
"""How soon to look again whether we are in the foreground, when there are keys for somebody else."""


class Keys:
    """Carries keys until the terminal is gone; while we are in the background, nothing is read.

    Args:
        terminal: the user's.
        target: our side of the command's terminal.
        hung_up: called if the terminal goes while we are in the background: the system tells only its foreground.
    """

    def __init__(self, terminal: Terminal, target: int, hung_up: Callable[[], None]) -> None:
        self._terminal = terminal
        self._target = target
        self._hung_up = hung_up
        threading.Thread(target=self._run, name="keys", daemon=True).start()

    def _run(self) -> None:
        ready = select.poll()
        ready.register(self._terminal.descriptor, select.POLLIN)
        while True:
            ((_, event),) = ready.poll()
            is_gone = event & (select.POLLHUP | select.POLLERR | select.POLLNVAL)
            if is_gone and not self._terminal.is_raw:
                self._hung_up()
                return
            if not (self._terminal.is_raw and self._terminal.is_ours):
                time.sleep(_AGAIN_SECONDS)
                continue
            try:
                keys = os.read(self._terminal.descriptor, _CHUNK)
            except OSError:
                keys = b""  # the foreground was taken from us just now, or the terminal is gone
            if not keys and is_gone:
                return
            if not self._pass_on(keys):
                return

    def _pass_on(self, keys: bytes) -> bool:
        rest = memoryview(keys)
        try:
            while rest:
                rest = rest[os.write(self._target, rest) :]
        except OSError:
            return False  # the command's terminal is gone
        return True
