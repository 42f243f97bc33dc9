"""Running one worker process from start to drain."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

import structlog

from broker_worker.app.collecting import collect_seldom
from broker_worker.app.compose import Process, compose
from broker_worker.app.ending import on_end_of_stdin
from broker_worker.app.hardening import harden
from broker_worker.app.reloading import Reloader
from broker_worker.core.errors import AuditError
from broker_worker.settings import Settings

PUBLISH_AT_END_SECONDS = 5.0
_log = structlog.get_logger(__name__)


def serve(settings: Settings, name: str, *, until_stdin_ends: bool = False) -> None:
    """Run one worker until SIGTERM or SIGINT, then drain.

    Args:
        settings: where everything lives.
        name: the worker's name, stable over restarts.
        until_stdin_ends: drain as well when standard input ends: when a supervisor that holds the other end dies.

    Raises:
        BrokerError: if it cannot start.
    """
    harden()
    sys.setswitchinterval(0.001)  # files are reread and vaults asked in threads; they must not hold up answers
    process = compose(settings, name)
    collect_seldom()
    try:
        _runner()(_run(process, until_stdin_ends))
    finally:
        process.sink.close()


def _runner() -> Callable[..., None]:
    if sys.platform == "win32":
        return asyncio.run
    import uvloop  # noqa: PLC0415  # does not exist on Windows

    return uvloop.run


async def _run(process: Process, until_stdin_ends: bool) -> None:
    changed = asyncio.Event()
    _on_signals(process.worker.stop, changed)
    if until_stdin_ends:
        on_end_of_stdin(process.worker.stop)
    with contextlib.suppress(AuditError):  # the worker still runs, and refuses, until the disk is back
        process.record("worker_started", str(process.sink.recovery) or None)
    background = [
        asyncio.create_task(process.publisher.run()),
        asyncio.create_task(Reloader(process).run(changed)),
        asyncio.create_task(_announce(process)),
    ]
    try:
        await process.worker.run()
        with contextlib.suppress(AuditError):
            process.desk.close()
            process.record("worker_stopped", None)
        await process.publisher.drain(PUBLISH_AT_END_SECONDS)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await process.publisher_client.aclose()
        await asyncio.to_thread(process.jobs.close)
        if process.write_behind is not None:
            await asyncio.to_thread(process.write_behind.close)
        for provider in set(process.providers.values()):
            await provider.close()
    _log.info("worker_stopped", worker=process.name)


async def _announce(process: Process) -> None:
    await process.worker.ready.wait()
    _log.info("worker_ready", worker=process.name, agents=len(process.desk.configuration.policy.agents))


def _on_signals(stop: Callable[[], None], changed: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop))
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
