"""Notices on their way to runs, sealed and put onto the queue a few at a time: meanwhile requests are answered."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from redis.exceptions import OutOfMemoryError, ReadOnlyError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.pipeline.letters import Letter
from broker_worker.pipeline.session import Nonces, Session
from broker_worker.queue.streams import CHANNEL_MS, REPLIES_KEPT

AT_ONCE: Final = 16
"""How many notices are sealed before everybody else has a turn: each costs a tenth of a millisecond or more."""


class Outbox:
    """What runs are to be told, in order.

    Args:
        client: a client of the queue that returns bytes.
        session: the worker's session key by now.
        nonces: for sealing.
    """

    def __init__(
        self,
        client: Any,  # redis-py's types leave open what a reply is
        session: Callable[[], Session],
        nonces: Nonces,
    ) -> None:
        self._client = client
        self._session = session
        self._nonces = nonces
        self._waiting: deque[Letter] = deque()
        self._sealed: Sequence[tuple[str, bytes]] = ()
        """Of the first that wait, those that can be told."""
        self._sealed_with: Session | None = None
        self._taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, letters: Iterable[Letter]) -> None:
        """Have notices sent after those that wait."""
        self._waiting += letters

    async def send_some(self) -> None:
        """Send the next few.

        Raises:
            RedisError: if the queue is away, or takes nothing at the moment. The very same bytes are sent again then:
                a run that has them already knows them by that. Only under a new session key they are sealed anew,
                because the certificate of the one before may end while the queue is away.
        """
        session = self._session()
        if not self._sealed or self._sealed_with is not session:
            self._sealed, self._sealed_with = self._seal_some(session), session
        if self._sealed:
            await self._put(self._sealed)
        for _ in range(self._taken):
            self._waiting.popleft()
        self._sealed, self._taken = (), 0

    def _seal_some(self, session: Session) -> Sequence[tuple[str, bytes]]:
        """Seal the first that wait, or once more those that were sealed already."""
        self._taken = self._taken or min(AT_ONCE, len(self._waiting))
        sealed = list[tuple[str, bytes]]()
        for letter in islice(self._waiting, self._taken):
            with contextlib.suppress(WireError):  # a key that is nobody's
                sealed.append((letter.reply_stream, letter.seal(session, self._nonces)))
        return sealed

    async def _put(self, sealed: Sequence[tuple[str, bytes]]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream, envelope in sealed:
                pipeline.xadd(stream, {keynames.MESSAGE_FIELD: envelope}, maxlen=REPLIES_KEPT, approximate=True)
                pipeline.pexpire(stream, CHANNEL_MS)
            replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:  # another error is of one stream: something else has that name, and nobody listens there
            if isinstance(reply, (OutOfMemoryError, ReadOnlyError)):
                raise reply
