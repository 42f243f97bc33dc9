"""Where the command's three standard streams go, as it depends on what ours are.

not masked             the command has our own streams
a terminal to talk in  standard input and output are terminals, and we are in the foreground: the command gets a
                       terminal and a session of its own, and ours becomes raw
otherwise              standard input is our own. Each of the other two is a pipe if ours is none of a terminal, and
                       else the end of a terminal that only carries output: keys, suspending and /dev/tty are those of
                       the real terminal, in whose session the command stays
"""

import contextlib
import fcntl
import os
import pty
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_sdk.masking import Masker
from agent_sdk.run.relay import Relay
from agent_sdk.run.terminal import Terminal, without_output_processing

IN, OUT, ERR = 0, 1, 2
_OF_A_PIPE: Final = 1024 * 1024
"""What a pipe is to keep, in bytes: the command writes on while we search."""
_OF_A_TERMINAL: Final = 65536
"""More than a terminal keeps between its two sides, in bytes."""


@dataclass(slots=True)
class Line:
    """One way out: where the command writes, where we read, where it goes."""

    theirs: int
    ours: int
    target: int
    capacity: int


@dataclass(slots=True)
class Streams:
    """The streams of one command, before and while it runs.

    Args:
        given: for standard input, output and error, which of our descriptors the command gets.
        lines: what goes through us.
        terminal: the user's, if the command has one of its own.
        window: the user's terminal, if any output goes there: its size is the command's too.
        inner: our side of the terminals that we made.
    """

    given: tuple[int, int, int] = (IN, OUT, ERR)
    lines: list[Line] = field(default_factory=list)
    terminal: Terminal | None = None
    window: Terminal | None = None
    inner: list[int] = field(default_factory=list)

    @property
    def ours(self) -> Sequence[int]:
        """The descriptors that only we may have."""
        return sorted({line.ours for line in self.lines} | set(self.inner))

    @property
    def theirs(self) -> Sequence[int]:
        """The descriptors that only the command may have, once it was started."""
        return sorted({descriptor for descriptor in self.given if descriptor > ERR})

    def relays(self, maskers: Sequence[Masker], done: Callable[[], None]) -> list[Relay]:
        """Begin to carry what the command writes.

        Args:
            maskers: one for each of `lines`.
            done: called when one of them has ended, on its own thread.
        """
        return [
            Relay(line.ours, line.target, masker, line.capacity, done)
            for line, masker in zip(self.lines, maskers, strict=True)
        ]

    def resize(self) -> None:
        """Give the command's terminals the size of the user's."""
        if self.window is not None:
            for inner in self.inner:
                self.window.lend_size(inner)


def hold_standard_streams() -> None:
    """Keep the numbers of standard streams that are closed from being given to something else.

    The command finds them closed, as it would have without us.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= ERR:
        pass
    os.close(descriptor)


def make_streams(*, masked: bool) -> Streams:
    """The streams that suit ours.

    Args:
        masked: whether anything is masked at all.

    Raises:
        OSError: if the system has no room for another terminal or pipe.
    """
    if not masked:
        return Streams()
    if os.isatty(IN) and os.isatty(OUT) and Terminal(IN).is_ours:
        return _own_terminal()
    streams = Streams()
    given = [IN, OUT, ERR]
    for number in (OUT, ERR):
        if number == ERR and given[OUT] != OUT and os.path.sameopenfile(OUT, ERR):
            given[ERR] = given[OUT]  # one place shows both, in the order written
        elif not os.get_inheritable(number):
            continue  # closed, and held by `hold_standard_streams`
        elif os.isatty(number):
            given[number] = _terminal_line(streams, number)
        else:
            given[number] = _pipe_line(streams, number)
    streams.given = (given[IN], given[OUT], given[ERR])
    return streams


def _own_terminal() -> Streams:
    outer, inner = pty.openpty()
    terminal = Terminal(IN)
    terminal.lend_settings(inner)
    streams = Streams(terminal=terminal, window=terminal, inner=[outer])
    streams.lines.append(Line(inner, outer, OUT, _OF_A_TERMINAL))
    error = ERR if not os.get_inheritable(ERR) else inner if os.isatty(ERR) else _pipe_line(streams, ERR)
    streams.given = (inner, inner, error)
    return streams


def _terminal_line(streams: Streams, number: int) -> int:
    outer, inner = pty.openpty()
    streams.window = Terminal(number)
    streams.window.lend_settings(inner)
    without_output_processing(inner)
    streams.inner.append(outer)
    streams.lines.append(Line(inner, outer, number, _OF_A_TERMINAL))
    return inner


def _pipe_line(streams: Streams, number: int) -> int:
    ours, theirs = os.pipe()
    capacity = _widen(theirs)
    _widen(number)  # if it is a pipe: its reader reads on while we search
    streams.lines.append(Line(theirs, ours, number, capacity))
    return theirs


def _widen(pipe: int) -> int:
    """Let a pipe keep more, where the system can; how much it keeps at most, in bytes."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return _OF_A_TERMINAL
    with contextlib.suppress(OSError):  # it is none, or the user has many: a small one works too
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _OF_A_PIPE)
    try:
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except OSError:
        return _OF_A_TERMINAL
