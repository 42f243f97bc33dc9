"""Trying a value before it is in force: by a command or a request that the operator names."""

import asyncio
import contextlib
import os
import signal
import sys

from broker_worker.core.rotation import CommandProbe, HttpProbe


async def probe(how: CommandProbe | HttpProbe, value: bytes) -> str:
    """Try a value.

    The value stands in no argument. What a command writes is dropped, and of an answer only the status is looked at:
    both may repeat it.

    Args:
        how: what to run or ask.
        value: what to try.

    Returns:
        Why it does not work, as a slug; empty if it does.
    """
    try:
        async with asyncio.timeout(how.timeout_seconds):
            return await (_run(how, value) if isinstance(how, CommandProbe) else _ask(how, value))
    except TimeoutError:
        return "timeout"


async def _run(how: CommandProbe, value: bytes) -> str:
    environ: dict[str, str | bytes] = {"PATH": os.defpath, "LC_ALL": "C"}
    if how.variable is not None:
        if b"\x00" in value:
            return "not_a_text"
        environ[how.variable] = value
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *how.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=nothing,
            stderr=nothing,
            env=environ,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return "cannot_run"
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a command need not read it
            await process.communicate(value if how.variable is None else b"")
        code = await process.wait()
    finally:
        if process.returncode is None:
            _end(process)
            await asyncio.shield(process.wait())
    return "" if code == 0 else f"exit_{code}"


def _end(process: asyncio.subprocess.Process) -> None:
    """End a command and all that it started: they may hold the value."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


async def _ask(how: HttpProbe, value: bytes) -> str:
    import httpx  # noqa: PLC0415  # most rotations ask nobody, and it takes long to load

    try:
        header = how.prefix.encode("latin-1") + value
    except UnicodeEncodeError:
        return "not_a_header"
    if any(byte < 0x20 or byte == 0x7F for byte in header):
        return "not_a_header"
    try:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=how.timeout_seconds) as client,
            client.stream("GET", how.url, headers={how.header.encode(): header}) as answer,
        ):
            return "" if answer.status_code == how.status else f"status_{answer.status_code}"
    except httpx.TimeoutException:
        return "timeout"
    except (httpx.HTTPError, httpx.InvalidURL):
        return "unreachable"
