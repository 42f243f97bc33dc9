"""Hot reload: valid files are swapped whole and audited; invalid ones change nothing, and say why."""

import asyncio
import contextlib
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import structlog
import watchfiles

from agent_sdk.wire.audit import EventType
from agent_sdk.wire.tokens import TokenVerifier
from broker_worker.app.compose import SKEW_MS, Process, intakes_of
from broker_worker.app.vaults import provider_names, providers_of
from broker_worker.core.configuration import Configuration
from broker_worker.core.digest import providers_digest
from broker_worker.core.errors import AuditError, BrokerError, ConfigError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import load_broker_keys
from broker_worker.ports import Provider
from broker_worker.providers.resilient import STORE_SECONDS
from broker_worker.providers.schemes import check_configuration

_SWEEP_MS = 500
_log = structlog.get_logger(__name__)


async def watch(folders: Sequence[Path], changed: asyncio.Event) -> None:
    """Set `changed` whenever a file in one of the folders changed, until cancelled.

    The system's notifications come at once, but they follow the folder that was there at first, not its name: they
    miss a folder that was exchanged, files behind symbolic links, and some network file systems. So they only say when
    to look; it is also looked twice a second without them.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def follow() -> None:
        before = _state(folders)
        for _ in _wake_ups(folders, stop):
            now = _state(folders)
            if now != before:
                before = now
                with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending
                    loop.call_soon_threadsafe(changed.set)

    try:
        await asyncio.to_thread(follow)
    finally:
        stop.set()


def _wake_ups(folders: Sequence[Path], stop: threading.Event) -> Iterator[object]:
    """Wake up at every notification, and twice a second, until `stop` is set."""
    try:
        yield from watchfiles.watch(
            *folders, stop_event=stop, debounce=200, step=50, rust_timeout=_SWEEP_MS, yield_on_timeout=True
        )
    except OSError as error:  # no folder, or no more watches to be had
        _log.warning("no_notifications", error=error.strerror or type(error).__name__, instead="looking twice a second")
    while not stop.wait(_SWEEP_MS / 1000):
        yield None


def _state(folders: Sequence[Path]) -> set[tuple[str | int, ...]]:
    """What tells whether a file is another one, was written, or has another mode; links are followed."""
    files: set[tuple[str | int, ...]] = set()
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    files.add((str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
    return files


class Reloader:
    """Applies the operator's changed files to a running worker.

    Args:
        process: the worker's parts.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._retired: set[asyncio.Task[None]] = set()
        self._is_rejected = False

    async def run(self, changed: asyncio.Event) -> None:
        """Reload until cancelled: after every change of a file, and whenever `changed` is set (SIGHUP)."""
        settings = self._process.settings
        async with asyncio.TaskGroup() as group:
            group.create_task(watch([settings.config_dir, settings.keys_dir], changed))
            while True:
                await changed.wait()
                changed.clear()
                await self.reload()

    async def reload(self) -> None:
        """Read everything again and swap it, or keep what is in force and say what is wrong."""
        process = self._process
        try:
            keys = await asyncio.to_thread(load_broker_keys, process.settings.keys_dir)
            process.desk.opener.replace_intakes(intakes_of(keys))
            configuration = await asyncio.to_thread(_load, process.settings.config_dir)
            is_new = configuration.digest != process.desk.configuration.digest
            if is_new:
                self._swap(configuration)
            if is_new or self._is_rejected:  # what is put back as it was is in order again
                _log.info(
                    "config_loaded", policy=configuration.policy.digest[:12], agents=len(configuration.policy.agents)
                )
                self._record("config_loaded", None)
            self._is_rejected = False
        except BrokerError as error:
            self._is_rejected = True
            where = _place(error) if isinstance(error, ConfigError) else error.code
            _log.error("config_rejected", error=str(error), hint=error.hint, in_force="the files as they were before")
            self._record("config_rejected", where)

    def _swap(self, configuration: Configuration) -> None:
        process, before = self._process, self._process.desk.configuration
        if configuration.providers != before.providers:
            retired = process.providers
            process.providers = providers_of(configuration, process.settings, process.clock, process.critical)
            process.fetches.replace(process.providers)
            process.writes.replace(process.providers)
            process.desk.settler.provider_of = provider_names(process.providers)
            self._retire(retired)
        process.critical.replace(configuration)
        process.cache.resize(configuration.cache.max_entries)
        if process.write_behind is not None:
            process.write_behind.follow(providers_digest(configuration), configuration.cache.max_entries)
        if configuration.cache.sealed != before.cache.sealed:
            _log.warning("restart_needed", what="the sealed cache's settings", hint="they hold from the next start on")
        process.desk.reconfigure(
            configuration,
            TokenVerifier(configuration.anchors, SKEW_MS),
            forget_values=configuration.providers != before.providers or _keeps_less(before, configuration),
        )
        process.worker.set_agents(configuration.policy.agents)

    def _record(self, event: EventType, reason: str | None) -> None:
        try:
            self._process.record(event, reason)
        except AuditError as error:
            _log.error("audit_unavailable", error=str(error), hint=error.hint)

    def _retire(self, providers: Mapping[str, Provider]) -> None:
        """Close providers once the calls that still use them are over."""

        async def close() -> None:
            await asyncio.sleep(STORE_SECONDS)
            for provider in set(providers.values()):
                await provider.close()

        task = asyncio.create_task(close())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _keeps_less(before: Configuration, after: Configuration) -> bool:
    """Whether a value may be kept in memory for longer than an entry now allows it to be served."""
    now = {name: entry.max_stale_seconds for name, entry in after.registry.items()}
    return any(now.get(name, 0) < entry.max_stale_seconds for name, entry in before.registry.items())


def _load(folder: Path) -> Configuration:
    configuration = load_configuration(folder)
    check_configuration(configuration)
    return configuration


def _place(error: ConfigError) -> str:
    """File and line; the file alone if it is wrong as a whole."""
    name = Path(error.file).name
    return f"{name}:{error.line}" if error.line else name
