"""`secret-broker up`: the embedded server where no other is given, users on the queue, and all processes."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import structlog

from broker_worker.app.clock import SystemClock
from broker_worker.app.house import House, Part
from broker_worker.app.part_credentials import RENEW_SECONDS, Mint, PartCredential
from broker_worker.app.reloading import watch
from broker_worker.app.vaults import has_dynamic, providers_of
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError, ConfigError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.egress import EGRESS_FILE
from broker_worker.files.keys import JOBS, QUEUE, ensure_seed, load_broker_keys, load_seed
from broker_worker.jobs.payloads import NOTIFICATIONS, ROTATIONS, UPSTREAM
from broker_worker.queue import acl
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.queue.users import ensure_users
from broker_worker.settings import Settings

PROXY_SECONDS = 28.0
"""How long the egress proxy may take to let calls in flight end; without any it is gone at once."""
STOP_SECONDS = 20.0
"""How long workers may take to drain; what comes before and after has less."""
_CHECK_SECONDS = 0.5
_USERS_AGAIN_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps a server and processes running until it is told to stop.

    Args:
        settings: where everything lives.
        workers: how many worker processes.
        prefix: workers are named `<prefix>-1`, `<prefix>-2`, …
        options: options of the command line that the processes' command lines share.
        ledger: whether to run the ledger.
        dashboard: whether to run the dashboard.
        notifications: whether to run the process that tells people, if the files say whom.
        gateway: whether to run the HTTP gateway, if broker.yaml has `server`.
        egress: whether to run the egress proxy, if there is an egress.yaml.
        mint: mints the runs of parts that ask on behalf of others; None for no such parts.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int,
        prefix: str = "worker",
        options: Sequence[str] = (),
        *,
        ledger: bool = False,
        dashboard: bool = False,
        notifications: bool = True,
        gateway: bool = False,
        egress: bool = False,
        mint: Mint | None = None,
    ) -> None:
        self._settings = settings
        self._names = [f"{prefix}-{number}" for number in range(1, workers + 1)]
        self._options = tuple(options)
        self._beside = {"ledger": ("ledger", "run")} if ledger else {}
        self._seen = {"dashboard": ("dashboard",)} if dashboard else {}
        self._may_notify = notifications
        self._stopping = asyncio.Event()
        self._notifies, self._revokes, self._rotates = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._answers_http, self._proxies = asyncio.Event(), asyncio.Event()
        self._gateway: PartCredential | None = None
        self._gateway_environ: dict[str, str] = {}
        if gateway and mint is not None:
            self._gateway = PartCredential(settings.run_dir, "gateway", "value", mint, SystemClock().now)
        self._egress: PartCredential | None = None
        if egress and mint is not None:
            self._egress = PartCredential(settings.run_dir, "egress", "proxy", mint, SystemClock().now)
        self._queue_key = b""
        self._server: EmbeddedServer | None = None
        self._configuration: Configuration | None = None

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
            self._want_jobs(configuration)
            self._want_actors(configuration)
            house = self._house()
            async with asyncio.TaskGroup() as group:
                beside = (self._follow_policy(), self._watch_server(), self._keep_credentials())
                helpers = [group.create_task(each) for each in beside]
                living = group.create_task(house.run())
                await self._stopping.wait()
                house.stop()
                await living
                for task in helpers:
                    task.cancel()
        finally:
            for credential in (self._gateway, self._egress):
                if credential is not None:
                    credential.remove()
            if self._server is not None:
                await asyncio.to_thread(self._server.stop)

    def _house(self) -> House:
        """All parts. The proxy goes first, as long as its calls can be recorded; people's page, then the workers.

        Last goes what follows up on their work.
        """
        command = (sys.executable, "-m", "broker_worker.cli", "--home", str(self._settings.home), *self._options)
        workers = [Part("worker", name, ("worker", "--name", name)) for name in self._names]
        jobs = [
            self._jobs(NOTIFICATIONS, self._notifies),
            self._jobs(UPSTREAM, self._revokes),
            self._jobs(ROTATIONS, self._rotates),
        ]
        ledger = [Part(kind, kind, arguments) for kind, arguments in self._beside.items()]
        dashboard = [Part(kind, kind, arguments) for kind, arguments in self._seen.items()]
        if self._gateway is not None:
            self._gateway_environ.update(self._gateway.environ)
            arguments = ("gateway", "gateway", ("gateway",), self._gateway_environ)
            dashboard.append(Part(*arguments, self._answers_http, alone=True))
        proxies: list[Part] = []
        if self._egress is not None:
            proxies = [Part("egress", "egress", ("egress",), self._egress.environ, self._proxies, alone=True)]
        return House(
            command, ((proxies, PROXY_SECONDS), (dashboard, 3.0), (workers, STOP_SECONDS), ((*jobs, *ledger), 5.0))
        )

    def _jobs(self, queue: str, wanted: asyncio.Event) -> Part:
        """A job process, logged in as the user `jobs`: it never sees the key that all passwords come from.

        But what rotates: it has that key, takes jobs as `jobs`, gives orders as `console`, and publishes its audit as
        `broker`, so it is given the address as it is.
        """
        address = self._settings.queue_address
        url = address if queue == ROTATIONS else acl.user_url(address, self._queue_key, acl.JOBS)
        return Part("jobs", queue, ("jobs", "--queue", queue), {"REDIS_URL": url}, wanted)

    def _want_jobs(self, configuration: Configuration) -> None:
        """Start the job processes that the files need, now or after a change; one that runs goes on.

        Raises:
            BrokerError: if a provider's section or the jobs' key cannot be used.
        """
        notifies = self._may_notify and bool(configuration.notifications)
        revokes = has_dynamic(configuration, self._settings)
        rotates = configuration.has_rotation_schedule
        if notifies or revokes or rotates:
            ensure_seed(self._settings.keys_dir / JOBS)
        if notifies:
            self._notifies.set()
        if revokes:
            self._revokes.set()
        if rotates:
            self._rotates.set()

    def _want_actors(self, configuration: Configuration) -> None:
        """Give gateway and proxy their credentials and start them, if the files have them; one that runs goes on."""
        self._configuration = configuration
        has_routes = (self._settings.config_dir / EGRESS_FILE).exists()
        if self._egress is not None and has_routes and self._egress.keep(configuration):
            self._proxies.set()
        server = configuration.server
        if self._gateway is not None and server is not None and self._gateway.keep(configuration):
            # it reads no file of the operator's, so it is told where to listen, anew at each of its starts
            self._gateway_environ |= {"SECRET_BROKER_GATEWAY": f"{server.host} {server.port}"}
            self._answers_http.set()

    async def _keep_credentials(self) -> None:
        """Mint credentials anew before they end."""
        while not self._stopping.is_set():
            await self._pause(RENEW_SECONDS)
            if self._configuration is not None:
                self._want_actors(self._configuration)

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
                    self._want_jobs(configuration)
                    self._want_actors(configuration)
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
