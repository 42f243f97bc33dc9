"""Signals while a command runs: each is taken as an event, with who sent it, and none ends us before the command.

All that we take is blocked in every thread, and one thread waits for it; so a handler never interrupts anything, and a
write to a terminal from the background is not stopped.
"""

import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

PASSED_ON: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGWINCH,
)
"""What a command is given when we are."""
_ONLY_BLOCKED: Final = (signal.SIGTTIN, signal.SIGTTOU)
RESET: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and a command must not."""
_NO_CORE: Final = (0, 0)

Heard = Callable[[signal.Signals, bool], None]
"""Takes a signal, and whether the kernel sent it (a key, a terminal's end) rather than a process."""


class Hearing:
    """Takes signals until the end of the process; those that were ignored at the start stay ignored."""

    def __init__(self) -> None:
        self._taken = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._taken:
            # One whose default is to be ignored may be lost although it is blocked, unless something would handle it.
            signal.signal(number, _nothing)
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, (*self._taken, *_ONLY_BLOCKED))
        """The mask that the command is to start with."""

    def start(self, heard: Heard) -> None:
        """Have every signal told to `heard`, on a thread of its own."""
        threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()

    def _listen(self, heard: Heard) -> None:
        while True:
            if sys.platform == "darwin":  # has no sigwaitinfo: what keys send counts as the kernel's
                number = signal.sigwait(self._taken)
                heard(signal.Signals(number), number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP))
            else:
                told = signal.sigwaitinfo(self._taken)
                heard(signal.Signals(told.si_signo), told.si_code > 0)


def wait_for_children() -> None:
    """Have the system keep what a child ended with: where SIGCHLD is ignored, as some launchers do, nobody can ask.

    What is started from here finds its default too.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def reset() -> None:
    """Give signals that Python ignores their defaults back, before this process becomes a command."""
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)


def stop_here() -> None:
    """Stop this process as a terminal's suspend key does; returns when it is continued.

    Returns at once where nobody could continue it (an orphaned process group).
    """
    # The terminal's own may still wait for the thread that takes signals; let in here, it would stop us a second time.
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # forgets one that waits (POSIX.1-2017, 2.4.3)
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
    # To this thread, the only one that has it unblocked: so the process stops before this returns.
    signal.raise_signal(signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
    signal.signal(signal.SIGTSTP, before)


def die_by(number: int) -> None:
    """End this process by a signal, without a core file: values are in its memory. Returns if the signal does not."""
    resource.setrlimit(resource.RLIMIT_CORE, _NO_CORE)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    signal.raise_signal(number)


def _nothing(number: int, frame: object) -> None:
    """Handle a signal by doing nothing."""
