"""The gateway's process: it listens on this host, and passes on what programs ask."""

import asyncio
import time
from collections.abc import Callable

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.http_server import Connection, Server
from broker_worker.core.configuration import ServerSettings
from broker_worker.gateway.app import Gateway
from broker_worker.gateway.asking import TIMEOUT_SECONDS, Clients
from broker_worker.loopback import listening

MAX_CONNECTIONS = 256
_MAX_HEAD = 16 * 1024
_PORT_HINT = "stop what uses it, or choose another: `port` under `server` in broker.yaml, or --port"


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
        serving = Server(
            Gateway(clients, server).app(),
            http=Connection,
            lifespan="off",
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=_MAX_HEAD,
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
