"""One run of a program: bounded output, nothing on its standard input but what is meant, and no process left behind.

The process is started and reaped here rather than by the event loop: until it is reaped its number cannot be given to
another process, so the whole group that it leads can be ended without a chance to hit anybody else.
"""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

_CHUNK: Final = 64 * 1024
_LOOK_SECONDS: Final = 0.002
_REAP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended.

    Args:
        exit_code: the exit code; negative is the signal that ended it.
        output: what it wrote to standard output; one byte more than was asked for if it wrote too much.
        messages: how many bytes it wrote to standard error. They are not kept: they may quote a value.
    """

    exit_code: int
    output: bytes = field(repr=False)
    messages: int


async def run(argv: Sequence[str], environ: Mapping[str, str], most: int, stdin: bytes | None = None) -> Finished:
    """Run a program to its end; cancelling this ends it and all processes of its group.

    Args:
        argv: the program's absolute path, and its arguments.
        environ: its whole environment.
        most: bytes of output that are read; more end the program.
        stdin: what it reads from its standard input; None for nothing.

    Raises:
        OSError: if it cannot be started, or if nobody could know how it ended.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited; every failure would look like a success
        raise OSError(errno.ECHILD, "SIGCHLD is ignored, so exit codes are lost")
    process = subprocess.Popen(  # noqa: ASYNC220, S603  # the operator's own words, started without a shell
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environ,
        cwd="/",
        start_new_session=True,
    )
    output, messages = bytearray(), 0

    def keep(chunk: bytes) -> None:
        output.extend(chunk[: most + 1 - len(output)])
        if len(output) > most:
            _kill(process)

    def count(chunk: bytes) -> None:
        nonlocal messages
        messages += len(chunk)

    try:
        ended = [_read(process.stdout, keep), _read(process.stderr, count)]
        _write(process.stdin, stdin)
        await asyncio.gather(*ended)
        await _exited(process)
        return Finished(process.returncode, bytes(output), messages)
    finally:
        _let_go(process.stdin, process.stdout, process.stderr)
        _kill(process)
        with contextlib.suppress(TimeoutError):  # it hangs in the kernel; `subprocess` reaps it later
            async with asyncio.timeout(_REAP_SECONDS):
                await _exited(process)


def _read(pipe: IO[bytes] | None, take: Callable[[bytes], None]) -> "asyncio.Future[None]":
    """Hand what comes out of a pipe to `take`; the future is done at its end."""
    assert pipe is not None
    loop, fd = asyncio.get_running_loop(), pipe.fileno()
    ended = loop.create_future()

    def ready() -> None:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if chunk:
            take(chunk)
        else:
            loop.remove_reader(fd)
            if not ended.done():
                ended.set_result(None)

    os.set_blocking(fd, False)
    loop.add_reader(fd, ready)
    return ended


def _write(pipe: IO[bytes] | None, data: bytes | None) -> None:
    """Write to a pipe as it takes it, and close it; a program that reads no more is none of our business."""
    if pipe is None or data is None:
        return
    loop, fd, rest = asyncio.get_running_loop(), pipe.fileno(), memoryview(data)

    def ready() -> None:
        nonlocal rest
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            rest = rest[:0]
        if not rest:
            loop.remove_writer(fd)
            pipe.close()

    os.set_blocking(fd, False)
    loop.add_writer(fd, ready)


def _let_go(stdin: IO[bytes] | None, *outputs: IO[bytes] | None) -> None:
    loop = asyncio.get_running_loop()
    if stdin is not None and not stdin.closed:
        loop.remove_writer(stdin.fileno())
        stdin.close()
    for pipe in outputs:
        if pipe is not None:
            loop.remove_reader(pipe.fileno())
            pipe.close()


async def _exited(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:  # noqa: ASYNC110  # the only event there is would be the loop's, which reaps as well
        await asyncio.sleep(_LOOK_SECONDS)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its group, unless it was reaped: then the number may be another's by now."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
