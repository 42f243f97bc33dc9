"""`secret-broker up`: the embedded server where no other is given, users on the queue, and worker processes."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import structlog

from broker_worker.app.clock import SystemClock
from broker_worker.app.compose import providers_of
from broker_worker.app.reloading import watch
from broker_worker.core.errors import BrokerError, ConfigError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.keys import QUEUE, load_broker_keys, load_seed
from broker_worker.queue.acl import ensure_users
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings

STOP_SECONDS = 20.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_SECONDS = 30.0
_CHECK_SECONDS = 0.5
_USERS_AGAIN_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps a server and worker processes running until it is told to stop.

    Args:
        settings: where everything lives.
        workers: how many worker processes.
        prefix: workers are named `<prefix>-1`, `<prefix>-2`, …
        options: options of the command line that the workers' command lines share.
    """

    def __init__(self, settings: Settings, workers: int, prefix: str = "worker", options: Sequence[str] = ()) -> None:
        self._settings = settings
        self._names = [f"{prefix}-{number}" for number in range(1, workers + 1)]
        self._options = tuple(options)
        self._stopping = asyncio.Event()
        self._queue_key = b""
        self._server: EmbeddedServer | None = None

    def stop(self) -> None:
        """Drain the workers, then stop the server."""
        self._stopping.set()

    async def run(self) -> None:
        """Start everything and keep it running until `stop`.

        Raises:
            BrokerError: if the files, the keys or the queue cannot be used at the start.
        """
        configuration = load_configuration(self._settings.config_dir)
        load_broker_keys(self._settings.keys_dir)
        providers_of(configuration, self._settings, SystemClock())  # nothing is contacted: a bad section ends us here
        self._queue_key = load_seed(self._settings.keys_dir / QUEUE)
        agents = configuration.policy.agents
        try:
            if self._settings.redis_url is None:
                self._server = EmbeddedServer(self._settings.run_dir, self._queue_key, agents)
                await asyncio.to_thread(self._server.start)
                _log.info("queue_ready", server="embedded valkey", address=self._server.address)
            else:
                await ensure_users(self._settings.queue_address, self._queue_key, agents)
                _log.info("queue_ready", server="REDIS_URL")
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._follow_policy()), group.create_task(self._watch_server())]
                workers = [group.create_task(self._keep_worker(name)) for name in self._names]
                await self._stopping.wait()
                await asyncio.wait(workers, timeout=STOP_SECONDS)
                for task in (*helpers, *workers):
                    task.cancel()
        finally:
            if self._server is not None:
                await asyncio.to_thread(self._server.stop)

    async def _keep_worker(self, name: str) -> None:
        """Run a worker process, and again after a growing pause whenever it ended by itself."""
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            code = await self._run_worker(name)
            if self._stopping.is_set():
                return
            failures = 1 if loop.time() - started > _STEADY_SECONDS else failures + 1
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
            _log.error("worker_ended", worker=name, exit_code=code, again_in=pause)
            await self._pause(pause)

    async def _run_worker(self, name: str) -> int:
        command = [
            *(sys.executable, "-m", "broker_worker.cli", "--home", str(self._settings.home)),
            *self._options,
            *("worker", "--name", name, "--until-stdin-ends"),
        ]
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        _log.info("worker_launched", worker=name, pid=process.pid)
        ended = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
            return await ended
        finally:
            stopping.cancel()
            if process.returncode is None:
                process.kill()

    async def _follow_policy(self) -> None:
        """Give agents that the policy adds a user on the queue, and take away those of agents that are gone."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(watch([self._settings.config_dir], changed))
            while True:
                await changed.wait()
                changed.clear()
                try:
                    configuration = await asyncio.to_thread(load_configuration, self._settings.config_dir)
                    if self._server is not None:
                        self._server.set_agents(configuration.policy.agents)
                    address = self._server.address if self._server else self._settings.queue_address
                    await ensure_users(address, self._queue_key, configuration.policy.agents)
                except ConfigError:
                    continue  # each worker says so and keeps what is in force; so do we
                except BrokerError as error:
                    _log.error("users_not_updated", error=str(error), hint=error.hint, again_in=_USERS_AGAIN_SECONDS)
                    await self._pause(_USERS_AGAIN_SECONDS)
                    changed.set()

    async def _watch_server(self) -> None:
        """Start the embedded server again if it ended."""
        while self._server is not None and not self._stopping.is_set():
            await self._pause(_CHECK_SECONDS)
            if self._server.pid is None and not self._stopping.is_set():
                _log.error("queue_ended", server="embedded valkey", action="starting it again")
                try:
                    await asyncio.to_thread(self._server.stop)
                    await asyncio.to_thread(self._server.start)
                except BrokerError as error:
                    _log.error("queue_not_started", error=str(error), hint=error.hint)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
