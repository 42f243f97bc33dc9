"""What a command is lent: fetched, kept and given back by a client on a thread of its own."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal, TypeVar

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import Refusal
from agent_sdk.run.child import Child
from agent_sdk.run.fetching import RELEASE_SECONDS, Held, Wanted, fetch, give_back
from agent_sdk.run.keeping import Keeping, Tell
from agent_sdk.wire.messages import Notice

T = TypeVar("T")
OnRevoke = Literal["end", "ignore"] | signal.Signals
Connect = Callable[[Callable[[Notice], None]], AsyncSecretBroker]
GRACE_SECONDS: Final = 10.0
"""How long a command that is to end has for it."""


class Lending:
    """A client on a thread of its own, and what it was granted.

    Args:
        connect: makes the client, given what it is to call with each notice.
        tell: shows people a line; called on that thread.
    """

    def __init__(self, connect: Connect, tell: Tell) -> None:
        self._tell = tell
        self._held: Held = {}
        self._keeping: Keeping | None = None
        self._ending: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[Any] | None = None
        self._loop = asyncio.new_event_loop()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread = threading.Thread(target=self._loop.run_forever, name="lending", daemon=True)
        self._thread.start()  # with every signal blocked, so that each reaches those who wait for it
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._client = self._run(self._connected(connect))

    def fetch(self, wanted: Wanted, purpose: str, timeout: float) -> Held:
        """Ask for everything; see `agent_sdk.run.fetching.fetch`."""
        self._held = self._run(self._fetch(wanted, purpose, timeout))
        return self._held

    def keep(self, child: Child, on_revoke: OnRevoke) -> None:
        """Keep what was fetched, and tell the command when the broker takes it back.

        Args:
            child: the command.
            on_revoke: what it is told: a signal, to end, or nothing.
        """
        self._run(self._keep(child, on_revoke))

    def close(self) -> None:
        """Give everything back and end the thread."""
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _fetch(self, wanted: Wanted, purpose: str, seconds: float) -> Held:
        self._fetching = asyncio.current_task()
        return await fetch(self._client, wanted, purpose=purpose, timeout=seconds, waiting=self._waiting)

    async def _connected(self, connect: Connect) -> AsyncSecretBroker:
        return await connect(self._noticed).__aenter__()

    def _waiting(self, refused: Sequence[Refusal]) -> None:
        for refusal in refused:
            how = f" (secret-broker approve {refusal.approval})" if refusal.approval else ""
            self._tell(f"waiting for people to approve {refusal.name}{how}")

    async def _keep(self, child: Child, on_revoke: OnRevoke) -> None:
        def revoked(name: str) -> None:
            self._tell(f"{name} was revoked" + _consequence(on_revoke))
            if on_revoke == "end":
                self._ending = self._ending or asyncio.ensure_future(_end(child))
            elif on_revoke != "ignore":
                child.send(on_revoke)

        self._keeping = Keeping(self._client, self._held.values(), self._tell, revoked)
        self._keeping.notice()  # what was taken back before anybody looked

    def _noticed(self, notice: Notice) -> None:
        if self._keeping is not None:
            self._keeping.notice()

    async def _finish(self) -> None:
        if self._fetching is not None:  # interrupted, it gives back what was granted
            await asyncio.wait([self._fetching], timeout=RELEASE_SECONDS)
        if self._ending is not None:
            self._ending.cancel()
        if self._keeping is not None:
            await self._keeping.stop()
        for name in await give_back(self._client, self._held):
            self._tell(f"the broker could not be told that {name} is given back; its lease ends by itself")
        await self._client.close()


def _consequence(on_revoke: OnRevoke) -> str:
    if on_revoke == "end":
        return f"; the command is told to end (SIGTERM), and killed after {GRACE_SECONDS:g} s"
    return "; the command goes on" if on_revoke == "ignore" else f"; the command is told ({on_revoke.name})"


async def _end(child: Child) -> None:
    child.send(signal.SIGTERM, to_all=True)
    await asyncio.sleep(GRACE_SECONDS)
    child.send(signal.SIGKILL, to_all=True)
