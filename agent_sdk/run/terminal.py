"""The user's terminal: raw while the command has one of its own, and put back whatever happens."""

import fcntl
import os
import struct
import termios
import tty
from typing import Final

_NO_SIZE: Final = struct.pack("HHHH", 0, 0, 0, 0)


class Terminal:
    """A terminal that is handed through.

    Args:
        descriptor: where it is open.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._before: list[int | list[bytes | int]] | None = None

    @property
    def is_raw(self) -> bool:
        """Whether keys come through as they are; then lines need a carriage return."""
        return self._before is not None

    @property
    def is_ours(self) -> bool:
        """Whether our process group is in its foreground."""
        try:
            return os.tcgetpgrp(self.descriptor) == os.getpgrp()
        except OSError:
            return False

    def take(self) -> None:
        """Make it raw, if it is ours to do so; what was typed ahead stays."""
        if self._before is not None or not self.is_ours:
            return
        try:
            before = termios.tcgetattr(self.descriptor)
            tty.setraw(self.descriptor, termios.TCSADRAIN)
        except termios.error:
            return  # it is gone; a hang-up says so
        self._before = before

    def give_back(self) -> None:
        """Put it back as it was, if it was changed."""
        before, self._before = self._before, None
        if before is None:
            return
        try:
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, before)
        except termios.error:
            return  # it is gone

    def lend_settings(self, inner: int) -> None:
        """Give another terminal the settings and the size of this one."""
        termios.tcsetattr(inner, termios.TCSANOW, termios.tcgetattr(self.descriptor))
        self.lend_size(inner)

    def lend_size(self, inner: int) -> None:
        """Give another terminal the size of this one; whoever is in its foreground is told by the system."""
        try:
            fcntl.ioctl(inner, termios.TIOCSWINSZ, fcntl.ioctl(self.descriptor, termios.TIOCGWINSZ, _NO_SIZE))
        except OSError:
            return  # one of the two is gone


def without_output_processing(inner: int) -> None:
    """Have a terminal pass output as it is, because another one behind it will process it."""
    settings = termios.tcgetattr(inner)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(inner, termios.TCSANOW, settings)


def has_controlling_terminal() -> bool:
    """Whether a terminal's keys can reach us."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
