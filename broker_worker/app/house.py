"""Processes that `up` keeps: each started again when it ends by itself, and told to stop in their order."""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_SECONDS = 30.0
_PLAIN = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TERM", "NO_COLOR", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUTF8", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the house.

    Args:
        kind: what it is: `worker`, `jobs`, `ledger`, `dashboard`; log lines begin with it.
        name: what tells it from others of its kind.
        arguments: of `secret-broker`.
        environ: variables that it is given besides; they may hold a password.
        wanted: set once it is to run; None for from the start.
        alone: whether it gets of our own variables only what any program needs: none that hold a password, a token or
            a passphrase of the broker's.
    """

    kind: str
    name: str
    arguments: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    wanted: asyncio.Event | None = None
    alone: bool = False


def _inherited(*, alone: bool) -> dict[str, str]:
    if not alone:
        return dict(os.environ)
    return {name: text for name, text in os.environ.items() if name.upper() in _PLAIN or name.startswith("LC_")}


class House:
    """Keeps processes running until it is told to stop.

    Args:
        command: what starts `secret-broker`, with the options that all parts share.
        floors: the parts, in the order in which they are told to stop, those of one floor together; and how many
            seconds each floor has for that.
    """

    def __init__(self, command: Sequence[str], floors: Sequence[tuple[Sequence[Part], float]]) -> None:
        self._command = tuple(command)
        self._floors = [(asyncio.Event(), tuple(parts), seconds) for parts, seconds in floors]
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all parts, floor by floor."""
        self._stopping.set()

    async def run(self) -> None:
        """Run all parts until `stop`; then return when they have ended, or had their time to."""
        async with asyncio.TaskGroup() as group:
            floors = [
                (leaving, [group.create_task(self._keep(part, leaving)) for part in parts], seconds)
                for leaving, parts, seconds in self._floors
            ]
            await self._stopping.wait()
            for leaving, tasks, seconds in floors:
                leaving.set()
                if tasks:
                    await asyncio.wait(tasks, timeout=seconds)
                for task in tasks:
                    task.cancel()

    async def _keep(self, part: Part, leaving: asyncio.Event) -> None:
        """Run a process, and again after a growing pause whenever it ended by itself."""
        if part.wanted is not None:
            await _first_of(part.wanted, self._stopping)
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            code = await self._run_once(part, leaving)
            if self._stopping.is_set():
                return
            failures = 1 if loop.time() - started > _STEADY_SECONDS else failures + 1
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
            _log.error(f"{part.kind}_ended", **{part.kind: part.name}, exit_code=code, again_in=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_once(self, part: Part, leaving: asyncio.Event) -> int:
        command = [*self._command, *part.arguments, "--until-stdin-ends"]
        environ = {**_inherited(alone=part.alone), **part.environ}
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, env=environ)
        _log.info(f"{part.kind}_launched", **{part.kind: part.name}, pid=process.pid)
        ended = asyncio.ensure_future(process.wait())
        told = asyncio.ensure_future(leaving.wait())
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
            return await ended
        finally:
            told.cancel()
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
