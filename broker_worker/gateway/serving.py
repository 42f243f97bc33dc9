"""The gateway's process: it listens on this host, and passes on what programs ask."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from broker_worker.core.configuration import ServerSettings
from broker_worker.gateway.app import Gateway
from broker_worker.gateway.asking import TIMEOUT_SECONDS, Clients
from broker_worker.loopback import listening

HEAD_SECONDS = 10.0
"""How long a client may take from connecting to the end of its request's head."""
MAX_CONNECTIONS = 256
_MAX_HEAD = 16 * 1024
_GRACE_SECONDS = 2
_PORT_HINT = "stop what uses it, or choose another: `port` under `server` in broker.yaml, or --port"


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it: uvicorn's own way ends the process before it has tidied up."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Connection(H11Protocol):
    """A connection that is cut when no request comes: uvicorn itself waits for a first one for ever."""

    head_seconds = HEAD_SECONDS

    def connection_made(self, transport: Any) -> None:
        """Begin to count (asyncio's protocol)."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(self.head_seconds, self._cut_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no longer (asyncio's protocol)."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def _cut_if_idle(self) -> None:
        if self.cycle is None:
            self.transport.abort()


async def serve_gateway(
    server: ServerSettings,
    load: Callable[[], RunCredential],
    stopping: asyncio.Event,
    ready: Callable[[str], None],
    *,
    connect: Callable[[RunCredential], AsyncSecretBroker] | None = None,
) -> None:
    """Serve until `stopping` is set.

    Args:
        server: where to listen; port 0 is any free one.
        load: gives the gateway's own credential, and later a newer one if there is one.
        stopping: ends it.
        ready: told the gateway's address, when it listens.
        connect: makes the client of a credential; the ordinary one by default.

    Raises:
        SetupError: if the port cannot be used.
        CredentialMissing: if the gateway was handed no credential.
        CredentialInvalid: if its credential cannot be used.
    """
    clients = Clients(load, connect or (lambda found: AsyncSecretBroker(found, timeout=TIMEOUT_SECONDS)), _now)
    address = "127.0.0.1" if server.host == "localhost" else server.host
    with listening(server.port, (address,), _PORT_HINT) as sockets:
        server = ServerSettings(address, sockets[0].getsockname()[1])
        serving = _Server(
            uvicorn.Config(
                Gateway(clients, server).app(),
                http=Connection,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEAD,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(serving.serve(sockets))
                ready(server.origins[0])
                await stopping.wait()
                serving.should_exit = True
                await task
        finally:
            await clients.close()


def _now() -> int:
    return time.time_ns() // 1_000_000
