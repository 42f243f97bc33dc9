"""A terminal session of the command's own, and the process that leads it.

A command whose terminal is not ours needs a session of its own. Were it the leader itself, nobody in that session could
continue it, so the system would not let its suspend key stop it (POSIX.1-2017, 11.1.9 and 3.264: orphaned process
groups). So a small process leads the session, has the command as its child, and tells us when it stops or ends. It is
forked before there are threads, and before there is any value. When we are gone, it ends, and the system hangs up.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import termios
import threading
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from agent_sdk.run.child import Ended, Post, Stopped, attempts, failure
from agent_sdk.run.signals import reset

_GONE = (EOFError, OSError)


class Session:
    """Our end of a session.

    Args:
        inner: the command's side of the session's terminal.
        ours: descriptors that only we may have: our side of the terminal and of pipes.
    """

    def __init__(self, inner: int, ours: Iterable[int]) -> None:
        self._line, theirs = Pipe()
        self._lock = threading.Lock()
        self._leader = os.fork()
        if self._leader == 0:
            _lead(theirs, inner, (*ours, self._line.fileno()))
        theirs.close()

    def start(self, command: Sequence[str], environ: Mapping[bytes, bytes], streams: Sequence[int], post: Post) -> None:
        """Start the command in the foreground of its terminal.

        Args:
            command: the program and its arguments.
            environ: its whole environment.
            streams: for standard input, output and error, which descriptor it gets.
            post: told when it stops or ends, on a thread of its own.

        Raises:
            CannotStartError: if it cannot be started.
        """
        options = attempts(command, environ)
        self._line.send((options, dict(environ), tuple(streams)))
        try:
            number = self._line.recv()
        except _GONE:
            number = errno.EIO
        if number:
            raise failure(command[0], options[0][0], number)
        threading.Thread(target=self._listen, args=(post,), name="session", daemon=True).start()

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send the command a signal, unless it has ended; `to_all`: to its whole process group."""
        self._tell(("send", int(number), to_all))

    def resume(self, *, in_foreground: bool) -> None:
        """Let the command go on, in its terminal's foreground if we are in the foreground of ours."""
        self._tell(("resume", 0, in_foreground))

    def close(self) -> None:
        """End the session; what is left in the foreground of its terminal is told by the system (SIGHUP)."""
        with self._lock:
            self._line.close()
        os.waitpid(self._leader, 0)

    def _tell(self, message: tuple[str, int, bool]) -> None:
        with self._lock:
            try:
                self._line.send(message)
            except OSError:
                return  # it has ended, and we are about to learn it

    def _listen(self, post: Post) -> None:
        try:
            while True:
                kind, number = self._line.recv()
                post(Ended(number) if kind == "ended" else Stopped(number))
                if kind == "ended":
                    return
        except _GONE:
            post(Ended(signal.SIGKILL))  # somebody killed the leader, and the system the command's terminal


def _lead(line: Connection, inner: int, not_mine: Iterable[int]) -> NoReturn:
    """Lead the session until our other end is gone. Nothing may be raised out of a fork."""
    try:
        for descriptor in not_mine:
            os.close(descriptor)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # it hands the terminal on from its background
        os.setsid()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        options, environ, streams = line.recv()
        pid, number = _start(options, environ, streams, inner)
        line.send(number)
        for descriptor in {stream for stream in streams if stream > 2} - {inner}:
            os.close(descriptor)
        if pid:
            _watch(line, pid, inner)
    except _GONE:
        os._exit(0)
    finally:
        os._exit(1)


def _watch(line: Connection, pid: int, inner: int) -> None:
    """Tell what becomes of the command, and do to it what we are told."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(wake.fileno())
    alive = _report(line, pid)  # what happened before there was anybody to wake
    while True:
        ready, _, _ = select.select([line.fileno(), woken.fileno()], [], [])
        if woken.fileno() in ready:
            woken.recv(4096)
            alive = alive and _report(line, pid)
        if line.fileno() in ready:
            order = line.recv()
            if alive:
                with contextlib.suppress(OSError):  # it is about to end
                    _obey(pid, inner, *order)


def _obey(pid: int, inner: int, kind: str, number: int, flag: bool) -> None:
    if kind == "resume":
        if flag:
            os.tcsetpgrp(inner, pid)
        os.killpg(pid, signal.SIGCONT)
    elif flag:
        os.killpg(pid, number)
    else:
        os.kill(pid, number)


def _report(line: Connection, pid: int) -> bool:
    """Tell what became of the command; whether it goes on."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found == 0:
            return True
        if not os.WIFSTOPPED(status):
            line.send(("ended", status))
            return False
        line.send(("stopped", os.WSTOPSIG(status)))


def _start(
    options: Sequence[tuple[str, Sequence[str]]], environ: Mapping[bytes, bytes], streams: Sequence[int], inner: int
) -> tuple[int, int]:
    """Fork the command into the terminal's foreground; its pid, or 0 and the system's error number."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(options, environ, streams, inner, tell)
    os.close(tell)
    said = os.read(told, 8)
    os.close(told)
    if not said:
        return pid, 0
    os.waitpid(pid, 0)
    return 0, int(said)


def _become(
    options: Sequence[tuple[str, Sequence[str]]],
    environ: Mapping[bytes, bytes],
    streams: Sequence[int],
    inner: int,
    tell: int,
) -> NoReturn:
    """Be the command."""
    number = 0
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(inner, os.getpid())
        for target, stream in enumerate(streams):
            if stream != target:
                os.dup2(stream, target)
        reset()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
        for path, arguments in options:
            number = _execute(path, arguments, environ)
            if number != errno.ENOEXEC:  # then the next one is the shell
                break
    finally:
        os.write(tell, str(number or errno.EIO).encode())
        os._exit(127)


def _execute(path: str, arguments: Sequence[str], environ: Mapping[bytes, bytes]) -> int:
    try:
        os.execve(path, list(arguments), environ)  # noqa: S606  # the user's own command, without a shell
    except OSError as error:
        return error.errno or errno.EIO


def _nothing(number: int, frame: object) -> None:
    """Be interrupted."""
