"""What a command holds, while it runs: renewed before it ends, told of when it is taken back, given back at the end.

A lease that cannot be renewed ends without consequence for the command, which keeps what it was given: only people are
told. One that the broker takes back is another matter.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import LeaseExpired, LeaseRevoked, NotGranted, RateLimited, Revoked, Unavailable
from agent_sdk.secret import Secret

_EARLIEST, _LATEST = 0.55, 0.75
"""At which part of its life a lease is renewed: anywhere between, so that runs do not all ask at once."""
_NO_LATER: Final = timedelta(seconds=1)
"""A renewal that brings less than this has met the lease's hard end."""
_SOON: Final = 1.0
"""How soon to ask again at the earliest, when the broker was away; in seconds."""

Tell = Callable[[str], None]


class Keeping:
    """Keeps the leases of one command.

    Args:
        client: renews.
        secrets: what the command was given.
        tell: shows people a line.
        revoked: called once for each name that the broker took back.
        now: the time, UTC.
    """

    def __init__(
        self,
        client: AsyncSecretBroker,
        secrets: Iterable[Secret],
        tell: Tell,
        revoked: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._tell = tell
        self._revoked = revoked
        self._now = now
        self._secrets = tuple(secrets)
        self._told: set[str] = set()
        self._tasks = [asyncio.ensure_future(self._renew(secret)) for secret in self._secrets]

    def notice(self) -> None:
        """Look what the broker took back; to be called after each notice."""
        for secret in self._secrets:
            if secret.revoked and secret.name not in self._told:
                self._told.add(secret.name)
                self._revoked(secret.name)

    async def stop(self) -> None:
        """Renew nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renew(self, secret: Secret) -> None:
        """Renew one lease for as long as that brings anything."""
        while secret.expires_at is not None:
            left = (secret.expires_at - self._now()).total_seconds()
            await asyncio.sleep(max(0.0, left) * random.uniform(_EARLIEST, _LATEST))  # noqa: S311  # spreads load
            before = secret.expires_at
            try:
                await self._client.renew(secret)
            except LeaseRevoked:
                return self.notice()
            except LeaseExpired:
                return self._tell(f"the lease of {secret.name} has ended; the command keeps the value that it has")
            except Revoked:
                return self.notice()
            except (Unavailable, RateLimited) as error:
                await asyncio.sleep(max(_SOON, error.retry_after or 0.0))
                continue
            except NotGranted as error:
                return self._tell(f"the lease of {secret.name} is not renewed: {error}; the command goes on")
            if secret.expires_at - before < _NO_LATER:
                return self._tell(
                    f"the lease of {secret.name} has reached its longest life and ends at "
                    f"{secret.expires_at:%H:%M:%S} UTC; the command keeps the value that it has"
                )
        return None
