"""A broker made of a scripted desk over a real queue: it answers `claude`, and tells it what happened since."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_sdk import RunCredential
from agent_sdk.testing import FakeDesk
from agent_sdk.testing.transport import DeskTransport
from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.sealing import parse_envelope

REQUESTS = keynames.requests("claude")


class Responder:
    """Reads every request of `claude` and has the desk answer it."""

    def __init__(self, url: str, desk: FakeDesk) -> None:
        self.desk = desk
        # With a socket timeout redis-py uses asyncio.wait_for, which can lose a cancellation before Python 3.12.
        self.redis: Any = Redis.from_url(url, protocol=2, socket_timeout=None)
        self.respond = self._answer

    async def run(self) -> None:
        last = b"0-0"
        while True:
            for _, entries in await self.redis.xread({REQUESTS: last}, count=1000, block=200) or ():
                for entry_id, fields in entries:
                    last = entry_id
                    await self.respond(fields[keynames.MESSAGE_FIELD])

    async def _answer(self, envelope: bytes) -> None:
        with suppress(WireError):
            if (reply := self.desk.answer(envelope, "claude")) is not None:
                await self.write(reply, envelope)
        self.desk.consult()

    async def write(self, reply: bytes, envelope: bytes) -> None:
        await self.redis.xadd(stream_of(parse_envelope(envelope).run_public_key), {keynames.MESSAGE_FIELD: reply})


class Letterbox(DeskTransport):
    """Puts the desk's notices to a run onto its reply stream."""

    def __init__(self, responder: Responder, run: RunCredential) -> None:
        super().__init__(responder.desk, run)
        self._redis = responder.redis
        self.letters: list[asyncio.Task[Any]] = []
        responder.desk.connect(self, connected=True)

    def deliver(self, envelope: bytes) -> None:
        stream = stream_of(self.credential.run_public_key)
        self.letters.append(asyncio.create_task(self._redis.xadd(stream, {keynames.MESSAGE_FIELD: envelope})))


def stream_of(run_public_key: bytes) -> str:
    return keynames.replies("claude", keynames.fingerprint(run_public_key))


@asynccontextmanager
async def responding(url: str, desk: FakeDesk) -> AsyncIterator[Responder]:
    responder = Responder(url, desk)
    task = asyncio.create_task(responder.run())
    try:
        yield responder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, RedisError):
            await task
        await responder.redis.aclose()
