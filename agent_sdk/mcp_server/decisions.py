"""Waiting for people: the broker's notice, or some time, is a reason to ask once more.

The SDK can wait by itself, but begins by asking, and a wait that is given up may leave a request behind that uses up an
approval for one use. Here no request is ever left behind: one that was sent is answered, and what it brings is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

import anyio

from agent_sdk.approvals import FIRST_PAUSE, LONGEST_PAUSE, SHORT_PAUSE
from agent_sdk.wire.messages import Notice

_REMEMBERED: Final = 1000
T = TypeVar("T")


class Decisions:
    """What people have decided, as far as the broker told."""

    def __init__(self) -> None:
        self._settled: dict[str, None] = {}
        self._bell = asyncio.Event()

    def heard(self, notice: Notice) -> None:
        """Take a notice of the broker's."""
        if notice.event != "approval_settled" or notice.approval is None:
            return
        self._settled[notice.approval.hex()] = None
        if len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        self._bell.set()
        self._bell = asyncio.Event()

    async def ask_until(
        self, ask: Callable[[], Awaitable[T]], waiting: Callable[[T], Collection[str]], last: T, seconds: float
    ) -> T:
        """Ask again until nothing waits for people any more.

        Args:
            ask: asks once; it is let finish even if the wait is given up.
            waiting: the ids of the approvals that an answer says are waited for.
            last: the latest answer.
            seconds: how long to wait; then the latest answer is returned, whatever it says.
        """
        ends, pause = anyio.current_time() + seconds, FIRST_PAUSE
        while (approvals := waiting(last)) and (left := ends - anyio.current_time()) > 0:
            has_news = await self._news(approvals, min(pause, left))
            with anyio.CancelScope(shield=True):
                last = await ask()
            pause = SHORT_PAUSE if has_news else min(2 * pause, LONGEST_PAUSE)
        return last

    async def _news(self, approvals: Collection[str], seconds: float) -> bool:
        """Wait for a decision on one of them; whether there was one."""
        with anyio.move_on_after(seconds):
            while not self._settled.keys() & approvals:
                await self._bell.wait()
        heard = self._settled.keys() & approvals
        for each in heard:
            del self._settled[each]
        return bool(heard)
