"""The proxy's own run at the broker: one client, exchanged for that of a new credential before the old one ends."""

import asyncio
import time
from collections.abc import Callable

import structlog

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential

_log = structlog.get_logger(__name__)


class Asker:
    """Holds the client that asks. Its credential can be replaced while calls are in flight.

    Args:
        credential: the proxy's.
        connect: makes the client of a credential.
    """

    def __init__(
        self, credential: RunCredential, connect: Callable[[RunCredential], AsyncSecretBroker] = AsyncSecretBroker
    ) -> None:
        self._connect = connect
        self._credential = credential
        self._client = connect(credential)
        self._retired: dict[asyncio.Task[None], AsyncSecretBroker] = {}

    @property
    def client(self) -> AsyncSecretBroker:
        """Who is to be asked now."""
        return self._client

    @property
    def expires_at(self) -> int:
        """When the credential is over, ms since the epoch."""
        return self._credential.expires_at

    def replace(self, credential: RunCredential) -> bool:
        """Ask with another credential from now on; False if it is the same one.

        The client before stays connected until its own credential is over: what it was lent for calls that are still
        in flight can be taken back until then.
        """
        if credential.token == self._credential.token:
            return False
        task = asyncio.create_task(self._retire(self._client, self._credential.expires_at))
        self._retired[task] = self._client
        self._credential, self._client = credential, self._connect(credential)
        _log.info("egress_credential_replaced", agent=credential.agent_id, run=credential.run_id)
        return True

    async def _retire(self, client: AsyncSecretBroker, expires_at: int) -> None:
        await asyncio.sleep(max(0.0, expires_at / 1000 - time.time()))
        await client.close()
        task = asyncio.current_task()
        if task is not None:
            self._retired.pop(task, None)

    async def close(self) -> None:
        """Close every client."""
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        for client in (*retired.values(), self._client):
            await client.close()
