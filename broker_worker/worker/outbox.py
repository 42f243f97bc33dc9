"""Notices on their way to runs, sealed and put onto the queue a few at a time: meanwhile requests are answered."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

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

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sealed)

    def add(self, letters: Iterable[Letter]) -> None:
        """Have notices sent after those that wait."""
        self._waiting += letters

    async def send_some(self) -> None:
        """Send the next few.

        Raises:
            RedisError: if the queue is away. The very same bytes are sent again then: a run that has them already
                knows them by that.
        """
        if not self._sealed:
            self._sealed = self._seal_some()
        if not self._sealed:
            return
        async with self._client.pipeline(transaction=False) as pipeline:
            for stream, envelope in self._sealed:
                pipeline.xadd(stream, {keynames.MESSAGE_FIELD: envelope}, maxlen=REPLIES_KEPT, approximate=True)
                pipeline.pexpire(stream, CHANNEL_MS)
            with contextlib.suppress(ResponseError):  # something else has that name: nobody listens there
                await pipeline.execute()
        self._sealed = ()

    def _seal_some(self) -> Sequence[tuple[str, bytes]]:
        session, sealed = self._session(), list[tuple[str, bytes]]()
        for _ in range(min(AT_ONCE, len(self._waiting))):
            letter = self._waiting.popleft()
            with contextlib.suppress(WireError):  # a key that is nobody's
                sealed.append((letter.reply_stream, letter.seal(session, self._nonces)))
        return sealed
