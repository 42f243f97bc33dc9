"""Blocking calls beside the event loop: a bounded number at once, each with a deadline."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault.answers import Trouble
from broker_worker.providers.vault.failures import of_trouble

T = TypeVar("T")


class Threads:
    """Threads of this provider alone, so that a Vault that hangs holds up nobody else's.

    Args:
        count: how many calls may be under way at once.
        timeout_seconds: how long a call may take, waiting for its turn included. The call must end by itself: nobody
            can stop a thread.
    """

    def __init__(self, count: int, timeout_seconds: float) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="vault")
        self._timeout = timeout_seconds
        self._closed = False

    async def run(self, call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Make a call.

        Args:
            call: raises nothing but `ProviderError`.
            undo: what becomes of a result that comes when nobody waits for it any more.

        Raises:
            ProviderError: what the call raised; kind `TIMEOUT` if it took too long.
        """
        if self._closed:
            raise ProviderError(FailureKind.UNREACHABLE, "the Vault provider was closed")
        future = self._pool.submit(call)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._abandon(future, undo)
        except asyncio.CancelledError:
            self._abandon(future, undo)
            raise
        raise of_trouble(Trouble.TIMEOUT)

    def start(self, call: Callable[[], object]) -> None:
        """Make a call that nobody waits for; what it raises is dropped."""
        if not self._closed:
            self._pool.submit(call)

    def close(self) -> None:
        """Let what is under way end, and start nothing more."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _abandon(self, future: "Future[T]", undo: Callable[[T], object] | None) -> None:
        if undo is not None and not future.cancel():
            self.start(partial(_undo, future, undo))


def _undo(future: "Future[T]", undo: Callable[[T], object]) -> None:
    undo(future.result())
