"""What runs hold is noted as it begins, and taken over from workers that are gone."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from broker_worker.pipeline import Desk
from broker_worker.pipeline.letters import Letter
from broker_worker.ports import Clock, LeaseLog

POLL_SECONDS = 0.25
"""How often workers that are gone are looked for."""
GATHER_SECONDS = 0.02
"""What begins within this time is written at once."""


class LeaseKeeping:
    """Keeps the log of what runs hold.

    Args:
        log: where it is.
        desk: knows what begins and ends.
        send: takes notices for runs.
        clock: the time.
        stopping: set when the worker stops.
    """

    def __init__(
        self,
        log: LeaseLog,
        desk: Desk,
        send: Callable[[Iterable[Letter]], None],
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._log = log
        self._desk = desk
        self._send = send
        self._clock = clock
        self._stopping = stopping
        self._news = asyncio.Event()
        desk.affairs.leases.book.on_news = self._news.set

    async def run(self) -> None:
        """Note and take over until the worker stops."""
        while not self._stopping.is_set():
            await self._inherit()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    while not self._stopping.is_set():
                        await self._news.wait()
                        await asyncio.sleep(GATHER_SECONDS)
                        self._note()
            self._note()

    async def _inherit(self) -> None:
        found = await asyncio.to_thread(self._log.inherit)
        if found:
            desk = self._desk
            self._send(desk.affairs.inherit(found, self._clock.now()))

    def _note(self) -> None:
        self._news.clear()
        news = self._desk.affairs.leases.book.news
        if news:
            began = list(news)
            news.clear()
            self._log.note(began)

    def close(self) -> None:
        """Note what is left, and leave all of it to whoever inherits."""
        self._note()
        self._log.close()
