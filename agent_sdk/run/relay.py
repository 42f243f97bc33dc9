"""One stream of the command's output on its way to where ours goes: big reads, masked, whole writes.

A thread a stream: a reader of one that is slow holds up neither the other nor signals.
"""

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from agent_sdk.masking import Masker
from agent_sdk.run.pages import Pages

CHUNK: Final = 256 * 1024
"""How much is read at once, in bytes: what a processor's cache holds while it is searched and written."""
PAUSE_MS: Final = 50
"""After so long without output the masker is asked for what it holds back; it gives no value away by that."""
_SETTLING_SECONDS: Final = 0.2
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a file that takes no more. Any other means that nobody reads, as of a pipe or a terminal."""


class Relay:
    """Carries one stream until it ends, or until the command has ended and what it wrote is out.

    Where nobody reads our output any more, the stream is closed towards the command, so that its next write fails as if
    it had written there itself (SIGPIPE).

    Args:
        source: where the command's output comes from; closed at the end.
        target: where it goes.
        masker: the stream's own.
        capacity: how much the system keeps between the command and us at most, in bytes.
        done: called at the end, on the relay's thread.
    """

    def __init__(self, source: int, target: int, masker: Masker, capacity: int, done: Callable[[], None]) -> None:
        self._source = source
        self._target = target
        self._masker = masker
        self._capacity = capacity
        self._done = done
        self._pages = Pages.of(source, target, CHUNK)
        self.has_ended = False
        """Whether everything is out, or nobody reads it any more."""
        self.lost: int | None = None
        """The system's error number, if there was no room for what the command had written; it cannot know."""
        self._at_work = threading.Lock()
        self._told, self._tell = os.pipe()
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def command_ended(self) -> None:
        """Take what is there yet and end: what others write who still hold the stream is not waited for."""
        os.close(self._tell)

    def settle(self) -> None:
        """Return when everything that the command has written is out, except what is held back; or soon in any case."""
        until = time.monotonic() + _SETTLING_SECONDS
        while time.monotonic() < until and self._at_work.acquire(timeout=_SETTLING_SECONDS):
            is_out = not _is_readable(self._source)
            self._at_work.release()
            if is_out:
                return

    def _run(self) -> None:
        try:
            self._carry()
            self._write(self._masker.flush())
        except OSError as error:  # the command learns it at its next write, if there is one
            if error.errno in _FULL:
                self.lost = error.errno
        finally:
            with self._at_work:
                os.close(self._source)
                self._source = -1
            os.close(self._told)
            if self._pages is not None:
                self._pages.close()
            self.has_ended = True
            self._done()

    def _carry(self) -> None:
        ready = select.poll()
        ready.register(self._source, select.POLLIN)
        ready.register(self._told, 0)  # its other end is closed, which is always reported
        left = -1
        while left:
            events = ready.poll(0 if left > 0 else PAUSE_MS if self._masker.pending else None)
            if not events:
                if left > 0:
                    return
                self._write(self._masker.flush())
                continue
            if left < 0 and any(descriptor == self._told for descriptor, _ in events):
                ready.unregister(self._told)
                left = self._capacity
                continue
            with self._at_work:
                size = self._carry_some()
            if size == 0:
                return
            left = max(0, left - size) if left > 0 else left

    def _carry_some(self) -> int:
        """Carry what is there; returns how many bytes the command wrote of it, 0 at the end."""
        if self._pages is None:
            chunk = _read(self._source)
            self._write(self._masker.feed(chunk))
            return len(chunk)
        chunk = self._pages.look()
        shown = self._masker.feed(chunk)
        if shown is chunk:  # nothing is masked, and nothing held back
            self._pass_on(len(chunk))
        else:
            self._pages.drop(len(chunk))
            self._write(shown)
        return len(chunk)

    def _pass_on(self, size: int) -> None:
        assert self._pages is not None
        while size:
            try:
                size -= self._pages.pass_on(self._target, size)
            except BlockingIOError:
                select.select([], [self._target], [])

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._target, rest) :]
            except BlockingIOError:  # somebody who shares it made it so
                select.select([], [self._target], [])


def _read(source: int) -> bytes:
    """What is there; nothing at the end, which for a terminal is an error."""
    try:
        return os.read(source, CHUNK)
    except OSError:
        return b""


def _is_readable(source: int) -> bool:
    if source < 0:
        return False
    ready = select.poll()
    ready.register(source, select.POLLIN)
    return any(event & select.POLLIN for _, event in ready.poll(0))
