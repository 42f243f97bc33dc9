"""What people are asked, kept current by one reader for all browsers, also while the queue is away."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from broker_worker.core.approvals import Decision
from broker_worker.core.errors import BrokerError, QueueError
from broker_worker.people.inbox import Inbox, Item

AGAIN_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""How long to wait before the queue is tried again, seconds: the longer, the more often it failed."""

_log = structlog.get_logger(__name__)


class Feed:
    """Follows the requests and decisions on the queue; pages read what it knows and wait for nothing.

    Args:
        open_inbox: connects to the queue and reads everything that stands there.
    """

    def __init__(self, open_inbox: Callable[[], AbstractAsyncContextManager[Inbox]]) -> None:
        self._open_inbox = open_inbox
        self._inbox: Inbox | None = None
        self._changed_in: dict[str, int] = {}
        self.items: tuple[Item, ...] = ()
        """All requests of which something is known, the newest first; never changed in place."""
        self.version = 0
        """Grows with every change."""
        self.problem = "the queue was not read yet"
        """Why the list may be out of date; empty if it is not."""

    @property
    def waiting(self) -> int:
        """How many requests wait for a person."""
        return sum(item.state == "waiting" for item in self.items)

    async def run(self) -> None:
        """Follow until cancelled."""
        failures = 0
        while True:
            try:
                async with self._open_inbox() as inbox:
                    self.attach(inbox)
                    failures = 0
                    async for changed in inbox.watch():
                        self._take(changed)
            except BrokerError as error:
                self._inbox, self.problem = None, str(error)
                _log.warning("approvals_unread", error=str(error), hint=error.hint)
            finally:
                self._inbox = None
            failures += 1
            await asyncio.sleep(AGAIN_SECONDS[min(failures, len(AGAIN_SECONDS)) - 1])

    def attach(self, inbox: Inbox) -> None:
        """Take what an inbox has read as what there is."""
        self._inbox, self.problem = inbox, ""
        known = {item.approval_id: (item.state, item.missing) for item in self.items}
        items = inbox.items()
        self._take([item for item in items if known.get(item.approval_id) != (item.state, item.missing)])

    def changed_since(self, version: int) -> list[Item]:
        """The requests that are new or have changed since a version, the oldest first."""
        return [item for item in reversed(self.items) if self._changed_in.get(item.approval_id, 0) > version]

    def find(self, approval_id: str) -> Item | None:
        """The request with that id; None if nothing is known of it."""
        return next((item for item in self.items if item.approval_id == approval_id), None)

    def check(self, item: Item, verdict: str) -> None:
        """Refuse a verdict that would change nothing, before anybody signs it.

        Raises:
            ApprovalError: with what has come of the request already.
            QueueError: if the queue is away, so that no decision would get there.
        """
        inbox = self._connected()
        inbox.check(inbox.find(item.approval_id), verdict)  # as of now: time alone may have ended it

    async def submit(self, decision: Decision) -> Item:
        """Hand a signed decision over.

        Raises:
            ApprovalError: if workers would not count it.
            QueueError: if the queue does not take it.
        """
        item = await self._connected().submit(decision)
        self._take([item])
        return item

    def _connected(self) -> Inbox:
        if self._inbox is None:
            raise QueueError(f"nothing can be decided now: {self.problem}", hint="try again when the queue is back")
        return self._inbox

    def _take(self, changed: Sequence[Item]) -> None:
        self.version += 1
        self.items = () if self._inbox is None else self._inbox.items()
        self._changed_in |= {item.approval_id: self.version for item in changed}
        kept = {item.approval_id for item in self.items}
        self._changed_in = {name: version for name, version in self._changed_in.items() if name in kept}
