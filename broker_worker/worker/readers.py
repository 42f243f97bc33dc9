"""The reads that main lanes block on, and how they are ended when something else is to be watched."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

_TRIES = 40
_PAUSE_SECONDS = 0.005


class Reader:
    """What a main lane blocks on, and the connection by which its read can be ended."""

    def __init__(self, client_id: int) -> None:
        self.client_id = client_id
        self.watched: tuple[str, ...] = ()

    def covers(self, agents: set[str]) -> bool:
        """Whether all these agents are watched."""
        return agents.issubset(self.watched)

    def need_not_wake(self, agents: set[str]) -> bool:
        """Whether it reads these agents' streams, or will choose what to read before it reads at all."""
        return self.is_idle() or self.covers(agents)

    def is_idle(self) -> bool:
        """Whether it blocks on nothing."""
        return not self.watched


class Readers:
    """All main lanes' reads.

    Args:
        control: a client of the queue that may unblock others.
    """

    def __init__(self, control: Any) -> None:
        self._control = control
        self._readers: list[Reader] = []

    def add(self, client_id: int) -> Reader:
        """A new lane's reads."""
        reader = Reader(client_id)
        self._readers.append(reader)
        return reader

    def remove(self, reader: Reader) -> None:
        """A lane is gone."""
        self._readers.remove(reader)

    def cover(self, agent: str) -> bool:
        """Whether a lane blocks on an agent's stream now."""
        return any(reader.covers({agent}) for reader in self._readers)

    async def watch(self, agents: set[str]) -> None:
        """Have agents that became active read from now on.

        Raises:
            RedisError: if the queue is away.
        """
        await asyncio.gather(
            *(self._wake(reader, functools.partial(reader.need_not_wake, agents)) for reader in self._readers)
        )

    async def end_all(self) -> None:
        """End every read that blocks; never raises."""
        with contextlib.suppress(RedisError, OSError):
            await asyncio.gather(*(self._wake(reader, reader.is_idle) for reader in self._readers))

    async def _wake(self, reader: Reader, is_awake: Callable[[], bool]) -> None:
        """End the read that blocks, so that the next one watches what has changed."""
        for _ in range(_TRIES):
            if is_awake() or reader not in self._readers:
                return
            await self._control.client_unblock(reader.client_id)
            await asyncio.sleep(_PAUSE_SECONDS)
