"""The command as a child of ours: found as a shell finds it, started without a trace of us, waited for."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agent_sdk.run.signals import RESET, Hearing
from agent_sdk.wire.errors import SecretBrokerError

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_SHELL: Final = "/bin/sh"


@dataclass(frozen=True, slots=True)
class Ended:
    """The command ended.

    Args:
        status: what `wait` said of it.
    """

    status: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The command was stopped, as by a terminal's suspend key.

    Args:
        number: the signal that did it.
    """

    number: int


Post = Callable[[Ended | Stopped], None]


class Child(Protocol):
    """A command that runs."""

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send it a signal, unless it has ended; `to_all`: and those that it started, as far as they can be told."""
        ...

    def resume(self, *, in_foreground: bool) -> None:
        """Let it go on after it was stopped."""
        ...


class CannotStartError(SecretBrokerError):
    """The command cannot be started.

    Args:
        program: its name.
        number: the system's error number.
    """

    def __init__(self, program: str, number: int) -> None:
        missing = number == errno.ENOENT
        super().__init__(f"{program}: " + ("command not found" if missing else os.strerror(number)))
        self.exit_code = NOT_FOUND if missing else NOT_EXECUTABLE
        self.hint = ""
        if number == errno.E2BIG:
            self.hint = "arguments and environment are too long for the system: hand large values over with --file"


def locate(program: str, environ: Mapping[bytes, bytes]) -> str:
    """Where a program is: as it stands if it has a slash, else the first that is executable on the command's own PATH.

    Raises:
        CannotStartError: if there is none, or none that is executable.
    """
    if "/" in program:
        return program
    found = errno.ENOENT
    for folder in os.fsdecode(environ.get(b"PATH", os.fsencode(os.defpath))).split(os.pathsep):
        path = Path(folder or ".") / program
        if path.is_file():
            if os.access(path, os.X_OK):
                return str(path)
            found = errno.EACCES
    raise CannotStartError(program, found)


def attempts(command: Sequence[str], environ: Mapping[bytes, bytes]) -> Sequence[tuple[str, list[str]]]:
    """What to execute, in order: the program, and a script without a first line `#!` by the shell, as shells do."""
    path = locate(command[0], environ)
    return ((path, list(command)), (_SHELL, [_SHELL, path, *command[1:]]))


def failure(program: str, path: str, number: int) -> CannotStartError:
    """What to say of a program that was not executed; a file that is there, and its interpreter not, is found."""
    if number == errno.ENOENT and Path(path).exists():
        return CannotStartError(f"{program}: the interpreter in its first line", number=errno.EACCES)
    return CannotStartError(program, number)


class DirectChild:
    """A command in our own process group: keys of a terminal reach it as they reach us.

    Args:
        command: the program and its arguments.
        environ: its whole environment.
        streams: for standard input, output and error, which of our descriptors it gets.
        hearing: what it must not inherit of signals.
        post: told when it stops or ends, on a thread of its own.

    Raises:
        CannotStartError: if it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[bytes, bytes],
        streams: Sequence[int],
        hearing: Hearing,
        post: Post,
    ) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._pid = _spawn(command, environ, streams, hearing)
        threading.Thread(target=self._wait, args=(post,), name="child", daemon=True).start()

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send it a signal, unless it has ended; `to_all`: and its descendants (Linux), as its group is ours too."""
        with self._lock:
            if self._ended:
                return
            for pid in (*(_descendants(self._pid) if to_all else ()), self._pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def resume(self, *, in_foreground: bool) -> None:
        """Let it go on; the terminal is handed around by the shell that started us both."""
        self.send(signal.SIGCONT)

    def _wait(self, post: Post) -> None:
        while not self._ended:
            event = self._next()
            if event is not None:
                post(event)

    def _next(self) -> Ended | Stopped | None:
        if sys.platform != "darwin":  # has no waitid before Python 3.13; a signal could meet a successor there
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            with self._lock:
                return self._taken(os.WNOHANG)
        return self._taken()

    def _taken(self, options: int = 0) -> Ended | Stopped | None:
        """What became of it; None if it was stopped, but somebody has continued it meanwhile."""
        found, status = os.waitpid(self._pid, os.WUNTRACED | options)
        if found == 0:
            return None
        if os.WIFSTOPPED(status):
            return Stopped(os.WSTOPSIG(status))
        self._ended = True
        return Ended(status)


def _descendants(pid: int) -> Iterator[int]:
    """What a process started, and what that started; empty where the system does not say."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _spawn(command: Sequence[str], environ: Mapping[bytes, bytes], streams: Sequence[int], hearing: Hearing) -> int:
    moves = [(os.POSIX_SPAWN_DUP2, ours, number) for number, ours in enumerate(streams) if ours != number]
    for path, arguments in attempts(command, environ):
        try:
            return os.posix_spawn(
                path, arguments, environ, file_actions=moves, setsigmask=hearing.before, setsigdef=RESET
            )
        except OSError as error:
            number = error.errno or errno.EIO
        if number != errno.ENOEXEC:
            break
    raise failure(command[0], path, number)
