"""One program as a child process: its output bounded, its end certain, and with it the end of all that it started."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import anyio
from msgspec import Struct

from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server.clipping import READ

Ending = Literal["", "timeout", "revoked"]
_GRACE_SECONDS: Final = 2.0
"""How long a program that is to end has before it is killed."""
_DRAIN_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.01


class Output(Struct):
    """What was read of one stream.

    Args:
        data: the first bytes.
        total: how many there were.
    """

    data: bytearray
    total: int = 0


class Finished(Struct, frozen=True):
    """A program that ended.

    Args:
        exit_code: as it left it; negative for a signal.
        stdout: what it wrote.
        stderr: what it wrote there.
        ended: why it was ended, if it did not end by itself.
    """

    exit_code: int
    stdout: Output
    stderr: Output
    ended: Ending


async def run_child(
    program: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    stdin: bytes,
    seconds: float,
    revoked: asyncio.Event,
) -> Finished:
    """Run a program to its end. However this ends, cancellation included, nothing of its process group goes on.

    Args:
        program: the path of what is executed.
        argv: its arguments, the name it is called by first.
        environ: its whole environment.
        cwd: where it runs.
        stdin: what it reads.
        seconds: how long it may take.
        revoked: ends it when set.

    Raises:
        InvalidRequest: if it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            executable=program,
            env=dict(environ),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=sys.platform != "win32",
        )
    except OSError as error:
        raise InvalidRequest(f"{Path(program).name} cannot be started: {error.strerror}") from None
    out, err = Output(bytearray()), Output(bytearray())
    assert process.stdin
    assert process.stdout
    assert process.stderr
    streams = [
        asyncio.create_task(_write(process.stdin, stdin)),
        asyncio.create_task(_read(process.stdout, out)),
        asyncio.create_task(_read(process.stderr, err)),
    ]
    ended: Ending = ""
    try:
        ended = await _until_over(process, seconds, revoked)
    finally:
        with anyio.CancelScope(shield=True):  # a cancelled call ends the program before it returns
            await _end(process)
            await asyncio.wait(streams, timeout=_DRAIN_SECONDS)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
    return Finished(process.returncode or 0, out, err, ended)


async def _until_over(process: asyncio.subprocess.Process, seconds: float, revoked: asyncio.Event) -> Ending:
    over, taken = asyncio.create_task(_exit(process)), asyncio.create_task(revoked.wait())
    try:
        await asyncio.wait({over, taken}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            return ""
        return "revoked" if taken.done() else "timeout"
    finally:
        over.cancel()
        taken.cancel()


async def _exit(process: asyncio.subprocess.Process) -> None:
    """Wait for the program itself: `wait()` also waits for its pipes, which what it left behind can keep open."""
    while process.returncode is None:  # noqa: ASYNC110  # asyncio tells of the end by nothing else
        await asyncio.sleep(_LOOK_SECONDS)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the program's group to end, and kill what is left of it."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_exit(process), _GRACE_SECONDS)
    _signal(process, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    await _exit(process)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, number)  # the group lives on while anything in it does


async def _read(stream: asyncio.StreamReader, into: Output) -> None:
    while chunk := await stream.read(64 * 1024):
        into.total += len(chunk)
        into.data += chunk[: READ - len(into.data)]


async def _write(stream: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # a program that does not read its input
        stream.write(data)
        await stream.drain()
    stream.close()
