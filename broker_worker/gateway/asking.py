"""The gateway's own run: its client on the queue, and a new one whenever its credential was minted anew."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.errors import CredentialInvalid, CredentialMissing, Unavailable

TIMEOUT_SECONDS = 10.0
"""How long the broker may take for one request."""
_LOOK_AGAIN_MS = 5000
_log = structlog.get_logger(__name__)


class Clients:
    """The client of the credential in force.

    A credential that comes from a file is read again in the last part of its time: whoever wrote it writes it anew.
    What is under way on the client before ends there.

    Args:
        load: gives the credential that is there now.
        connect: makes the client of a credential.
        clock: the time in ms since the epoch.

    Raises:
        CredentialMissing: if there is none.
        CredentialInvalid: if it cannot be used.
    """

    def __init__(
        self,
        load: Callable[[], RunCredential],
        connect: Callable[[RunCredential], AsyncSecretBroker],
        clock: Callable[[], int],
    ) -> None:
        self._load, self._connect, self._clock = load, connect, clock
        self._credential = load()
        self._client: AsyncSecretBroker | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._look_at = self._half_of(self._credential)

    @property
    def is_good(self) -> bool:
        """Whether the gateway may ask at all."""
        self._look()
        return self._credential.expires_at > self._clock()

    async def current(self) -> AsyncSecretBroker:
        """The client to ask with.

        Raises:
            Unavailable: if the gateway's own credential is over.
        """
        if not self.is_good:
            raise Unavailable("the gateway's own credential is over: start it again with a new one")
        if self._client is None:
            self._client = self._connect(self._credential)
            await self._client.__aenter__()
        return self._client

    async def close(self) -> None:
        """Close all clients."""
        for task in self._retiring:
            task.cancel()
        if self._client is not None:
            await self._client.close()

    def _look(self) -> None:
        """Take a newer credential if there is one."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_AGAIN_MS
        try:
            credential = self._load()
        except (CredentialMissing, CredentialInvalid) as error:
            if self._credential.expires_at <= now:
                _log.error("credential_over", error=str(error))
            return
        if credential.token != self._credential.token:
            self._credential, client, self._client = credential, self._client, None
            self._look_at = self._half_of(credential)
            if client is not None:
                self._retire(client)

    def _half_of(self, credential: RunCredential) -> int:
        now = self._clock()
        return now + (credential.expires_at - now) // 2

    def _retire(self, client: AsyncSecretBroker) -> None:
        async def close() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(TIMEOUT_SECONDS)
            await client.close()

        task = asyncio.create_task(close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
