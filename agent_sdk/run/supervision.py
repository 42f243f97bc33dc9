"""Running a command: values fetched, the command started, everything passed through until it ends."""

import contextlib
import os
import queue
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent_sdk.masking import Masker
from agent_sdk.run.child import Child, DirectChild, Ended, Stopped
from agent_sdk.run.environment import Environment
from agent_sdk.run.hardening import keep_memory_private
from agent_sdk.run.keys import Keys
from agent_sdk.run.lending import Connect, Lending, OnRevoke
from agent_sdk.run.relay import Relay
from agent_sdk.run.session import Session
from agent_sdk.run.signals import Hearing, stop_here, wait_for_children
from agent_sdk.run.streams import ERR, Streams, hold_standard_streams, make_streams
from agent_sdk.run.terminal import has_controlling_terminal
from agent_sdk.run.value_file import ValueFile, open_value_file

_FOREGROUND_SECONDS: Final = 0.25
"""How often to look whether a command that was sent to the background is in the foreground again: no signal says so."""
_FROM_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP})
_FAILED: Final = 1 << 8
"""The status, as `wait` says it, of a command that leaves with 1."""
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, and how.

    Args:
        command: the program and its arguments.
        environment: what it is to find in its environment.
        purpose: what the values are for.
        timeout: seconds that fetching them may take, people included.
        masked: whether values are kept out of what it writes.
        on_revoke: what it is told when the broker takes a value back.
        extra: more variables, which hold nothing of the broker's.
    """

    command: Sequence[str]
    environment: Environment
    purpose: str
    timeout: float
    masked: bool
    on_revoke: OnRevoke
    extra: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Heard:
    """A signal, and whether the kernel sent it."""

    number: signal.Signals
    by_kernel: bool


class _RelayEnded:
    """A stream has ended."""


_Event = Ended | Stopped | _Heard | _RelayEnded


def supervise(order: Order, connect: Connect) -> int:
    """Run a command with its values.

    Args:
        order: what.
        connect: makes the client, on the loop that will run it, given what it is to call with each notice.

    Returns:
        What `wait` said of the command; or of a signal that ended us after the command.

    Raises:
        NotGranted: if any value was refused; nothing was started.
        CannotStartError: if the command could not be started.
    """
    keep_memory_private()
    wait_for_children()
    hold_standard_streams()
    streams = make_streams(masked=order.masked)
    files = {variable: open_value_file() for variable in order.environment.in_files}
    session = Session(streams.given[0], streams.ours) if streams.terminal is not None else None
    supervision = _Supervision(order, streams, files, session)
    lending = Lending(connect, supervision.tell)
    try:
        return supervision.run(lending)
    finally:
        if streams.terminal is not None:
            streams.terminal.give_back()
        if session is not None:
            session.close()
        lending.close()


class _Supervision:
    """One command from the fetch to its end."""

    def __init__(self, order: Order, streams: Streams, files: Mapping[str, ValueFile], session: Session | None) -> None:
        self._order = order
        self._streams = streams
        self._files = files
        self._session = session
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._relays: list[Relay] = []
        self._job_control = has_controlling_terminal()

    def tell(self, text: str) -> None:
        """Show people a line on standard error."""
        terminal = self._streams.terminal
        end = "\r\n" if terminal is not None and terminal.is_raw else "\n"
        shown = "".join(c if c.isprintable() else "?" for c in text)
        with contextlib.suppress(OSError):
            os.write(ERR, f"secret-agent: {shown}{end}".encode())

    def run(self, lending: Lending) -> int:
        """Fetch, start, and stand by until the end."""
        order, environment = self._order, self._order.environment
        held = lending.fetch(environment.wanted, order.purpose, order.timeout)
        values = {name: secret.reveal_bytes() for name, secret in held.items()}
        environ = self._environ(values)
        maskers = [Masker(values) for _ in self._streams.lines]
        for name in maskers[0].unmasked if maskers else ():
            self.tell(
                f"warning: the value of {name} is too short or too common to be masked in what the command writes"
            )
        hearing = Hearing()
        self._streams.resize()  # nothing told us of a change while the broker, or people, were waited for
        child = self._start(environ, hearing)
        hearing.start(lambda number, by_kernel: self._events.put(_Heard(number, by_kernel)))
        self._relays = self._streams.relays(maskers, lambda: self._events.put(_RelayEnded()))
        lending.keep(child, order.on_revoke)
        return self._until_ended(child)

    def _environ(self, values: Mapping[str, bytes]) -> dict[bytes, bytes]:
        environment = self._order.environment
        for variable, file in self._files.items():
            file.fill(values[environment.in_files[variable]])
        paths = {variable: file.path for variable, file in self._files.items()}
        return environment.filled(values, {**paths, **self._order.extra})

    def _start(self, environ: Mapping[bytes, bytes], hearing: Hearing) -> Child:
        streams, command = self._streams, self._order.command
        child: Child
        if self._session is not None and streams.terminal is not None:
            streams.terminal.take()
            self._session.start(command, environ, streams.given, self._events.put)
            hang_up = _Heard(signal.SIGHUP, by_kernel=True)
            Keys(streams.terminal, streams.inner[0], lambda: self._events.put(hang_up))
            child = self._session
        else:
            child = DirectChild(command, environ, streams.given, hearing, self._events.put)
        for descriptor in (*streams.theirs, *(file.descriptor for file in self._files.values())):
            os.close(descriptor)
        return child

    def _until_ended(self, child: Child) -> int:
        """Do what events ask for, until the command has ended and what it wrote is out."""
        status: int | None = None
        while status is None or not all(relay.has_ended for relay in self._relays):
            event = self._next()
            if isinstance(event, Ended):
                status = event.status
                for relay in self._relays:
                    relay.command_ended()
            elif isinstance(event, Stopped):
                self._stopped(child)
            elif isinstance(event, _Heard) and status is None:
                self._heard(child, event)
            elif isinstance(event, _Heard) and event.number in _ENDING:
                return int(event.number)  # the reader of our output is slow, and the command is no more
        return self._with_losses(status)

    def _with_losses(self, status: int) -> int:
        """The command's status; a failure if it reports success and its output did not fit where it goes."""
        lost = next((relay.lost for relay in self._relays if relay.lost is not None), None)
        if lost is None:
            return status
        self.tell(f"what the command wrote could not all be written: {os.strerror(lost)}")
        return status or _FAILED

    def _next(self) -> _Event | None:
        """The next event; None after a while in which we may have come to the foreground again."""
        terminal = self._streams.terminal
        in_background = terminal is not None and not terminal.is_raw
        try:
            return self._events.get(timeout=_FOREGROUND_SECONDS if in_background else None)
        except queue.Empty:
            if terminal is not None:
                terminal.take()
            return None

    def _heard(self, child: Child, heard: _Heard) -> None:
        number, terminal = heard.number, self._streams.terminal
        if number == signal.SIGWINCH:
            self._streams.resize()
            if terminal is None and self._streams.inner:
                child.send(number)  # it may have looked before its terminal had the new size
        elif number == signal.SIGCONT:
            self._resume(child)
        elif terminal is not None or not heard.by_kernel or number not in _FROM_KEYS:
            child.send(number)

    def _stopped(self, child: Child) -> None:
        """The command was stopped: stop as well, so that the shell sees it, and go on together."""
        if not self._job_control:
            return
        for relay in self._relays:
            relay.settle()
        if self._streams.terminal is not None:
            self._streams.terminal.give_back()
        stop_here()
        self._resume(child)

    def _resume(self, child: Child) -> None:
        terminal = self._streams.terminal
        if terminal is not None:
            terminal.take()
            self._streams.resize()
        child.resume(in_foreground=terminal is None or terminal.is_raw)
