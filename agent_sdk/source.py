"""A secret as a callable, for clients that take one in place of a key: asked for when it is needed, and then again."""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agent_sdk.secret import Secret

EARLY_SECONDS: Final = 10.0
"""A value that ends so soon is asked for again: what is begun with it should not outlive it."""


class SecretSource:
    """Gives the value of one secret, as text, whenever it is called. May be called from several threads.

    The value is kept as long as it is lent: what was revoked, rotated or is nearly over is asked for again.

    Args:
        get: asks for the secret.
        name: its name.
    """

    __slots__ = ("_get", "_lock", "_process", "_secret", "name")

    def __init__(self, get: Callable[[], Secret], name: str) -> None:
        self.name = name
        self._get = get
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._secret: Secret | None = None

    def __call__(self) -> str:
        """The value.

        Raises:
            NotGranted: if the broker refuses it, or does not answer.
            NotText: if it is not UTF-8.
        """
        if self._process != os.getpid():  # a thread of the parent may have held its lock at the fork
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:  # many threads that start at once ask once
            if self._secret is None or _is_nearly_over(self._secret):
                self._secret = self._get()
            return self._secret.reveal()

    def __repr__(self) -> str:
        return f"SecretSource({self.name!r})"


class AsyncSecretSource:
    """The same for asynchronous clients: a coroutine function, on one event loop.

    Args:
        get: asks for the secret.
        name: its name.
    """

    __slots__ = ("_get", "_lock", "_secret", "name")

    def __init__(self, get: Callable[[], Awaitable[Secret]], name: str) -> None:
        self.name = name
        self._get = get
        self._lock = asyncio.Lock()
        self._secret: Secret | None = None

    async def __call__(self) -> str:
        """The value.

        Raises:
            NotGranted: if the broker refuses it, or does not answer.
            NotText: if it is not UTF-8.
        """
        async with self._lock:  # many tasks that start at once ask once
            if self._secret is None or _is_nearly_over(self._secret):
                self._secret = await self._get()
            return self._secret.reveal()

    def __repr__(self) -> str:
        return f"AsyncSecretSource({self.name!r})"


def _is_nearly_over(secret: Secret) -> bool:
    ends = secret.expires_at
    return secret.expired or secret.rotated or (ends is not None and ends.timestamp() - time.time() < EARLY_SECONDS)
