"""`secret-agent` without the time that Python takes to start: a process that has loaded it, and forks for each use.

    python agent_nursery.py NUMBER-OF-A-SOCKET

Each message is JSON, [arguments, environment, whether to lead a session on its terminal], with four descriptors:
standard input, output, error, and a pipe to which the pid goes and in the end what `wait` says.
"""

import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

import agent_sdk.redis_transport  # loaded once for all
import agent_sdk.run
from agent_sdk.cli import main

for module in pkgutil.iter_modules(agent_sdk.run.__path__):
    importlib.import_module(f"agent_sdk.run.{module.name}")
for command in ("run", "get"):
    main.commands[command]


def become(arguments: Sequence[str], environ: dict[str, str], *, leads: bool) -> NoReturn:
    """Be `secret-agent`."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environ)
        if leads:
            import fcntl  # noqa: PLC0415  # with termios, only where it is needed
            import termios  # noqa: PLC0415  # does not exist on Windows

            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        main(arguments, prog_name="secret-agent")
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def attend(line: socket.socket, message: bytes, descriptors: Sequence[int]) -> NoReturn:
    """Start one, wait for it, and tell."""
    line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arguments, environ, leads = json.loads(message)
    *streams, report = descriptors
    pid = os.fork()
    if pid == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for descriptor in descriptors:
            os.close(descriptor)
        become(arguments, environ, leads=leads)
    for stream in streams:
        os.close(stream)
    for number in range(3):
        os.close(number)
    os.write(report, pid.to_bytes(8, "big"))
    _, status = os.waitpid(pid, 0)
    os.write(report, status.to_bytes(8, "big"))
    os._exit(0)


def serve(line: socket.socket) -> None:
    """Fork for every message, until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who attend
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, 1 << 18, 4)
        if not message:
            return
        if os.fork() == 0:
            attend(line, message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
