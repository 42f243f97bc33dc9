"""The dashboard's process: what its pages work with is made here, and served to browsers of this host."""

import asyncio
import functools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from filelock import FileLock, Timeout
from sqlalchemy import Engine, make_url

from agent_sdk.http_server import Server
from broker_worker.core.errors import SetupError
from broker_worker.dashboard.app import make_app
from broker_worker.dashboard.context import Context
from broker_worker.dashboard.feed import Feed
from broker_worker.dashboard.inviting import shared_folder
from broker_worker.dashboard.links import Links
from broker_worker.ledger.database import open_database
from broker_worker.loopback import listening
from broker_worker.people.current_rules import CurrentRules
from broker_worker.people.inbox import open_inbox
from broker_worker.people.revoking import revoke, revoke_all
from broker_worker.private_files import make_private_folder, write_private
from broker_worker.settings import Settings

_PORT_HINT = "stop what uses it, or choose another: `port` under `dashboard` in broker.yaml, or --port"
LOOPBACK = ("127.0.0.1", "::1")
_log = structlog.get_logger(__name__)


def read_only(address: str) -> Engine:
    """The ledger's database, from which this process only reads.

    Args:
        address: as SQLAlchemy writes it. A SQLite file that is missing stays missing, and is an error at each read.

    Raises:
        SetupError: if it is no such address.
    """
    url = make_url(address)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=f"file:{url.database}", query={"mode": "ro", "uri": "true"})
    return open_database(url.render_as_string(hide_password=False))


@dataclass
class Dashboard:
    """One dashboard of an installation.

    Args:
        settings: the installation.
        port: the port on 127.0.0.1; None for the one that `broker.yaml` says, 0 for any free one.
        addresses: where to listen; others than this host's own only in a container of its own.

    Raises:
        BrokerError: if the operator's files cannot be used.
    """

    settings: Settings
    port: int | None = None
    addresses: tuple[str, ...] = LOOPBACK
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        self._rules = CurrentRules(self.settings.config_dir)

    def stop(self) -> None:
        """End the streams and the server."""
        self._stopping.set()

    async def run(self, ready: Callable[[str], None]) -> None:
        """Serve until `stop`.

        Args:
            ready: told where browsers visit, when they can.

        Raises:
            SetupError: if another dashboard of this installation runs, or the port is taken.
            BrokerError: if the operator's files cannot be used.
        """
        configured = self._rules().dashboard
        port = configured.port if self.port is None else self.port
        with listening(port, self.addresses, _PORT_HINT) as sockets:
            port = sockets[0].getsockname()[1]
            origin = configured.origin if port == configured.port else f"http://localhost:{port}"
            with _registered(shared_folder(self.settings), origin):
                await self._serve(self._context(origin), sockets, ready)

    def _context(self, origin: str) -> Context:
        if origin not in self._rules().approvers.origins:
            hint = "approvers.yaml names where browsers may sign: add it under `origins`"
            _log.warning("origin_unknown", origin=origin, hint=hint)
        return Context(
            settings=self.settings,
            configuration=self._rules,
            ledger=read_only(self.settings.ledger_address),
            approvals=Feed(functools.partial(open_inbox, self.settings, self._rules, _now)),
            revoke=revoke,
            revoke_all=revoke_all,
            clock=_now,
            origin=origin,
            links=Links(shared_folder(self.settings)),
        )

    async def _serve(self, context: Context, sockets: list[socket.socket], ready: Callable[[str], None]) -> None:
        server = Server(make_app(context), lifespan="off")
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(context.approvals.run())
                serving = group.create_task(server.serve(sockets))
                ready(context.origin)
                await self._stopping.wait()
                context.sessions.end_all()  # and with them every stream
                server.should_exit = True
                await serving
                following.cancel()
        finally:
            context.ledger.dispose()


def _now() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _registered(folder: Path, origin: str) -> Iterator[None]:
    """Be the one dashboard of this installation, and say where it is."""
    make_private_folder(folder)
    lock = FileLock(folder / "running.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SetupError(
            "another dashboard of this installation is running",
            hint="`secret-broker dashboard link` prints a login link for it",
        ) from None
    try:
        write_private(folder / "address", origin.encode())
        yield
    finally:
        (folder / "address").unlink(missing_ok=True)
        lock.release()
