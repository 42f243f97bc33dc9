"""Envelopes to a desk in the same process, and back."""

import asyncio
from typing import Protocol

from agent_sdk.credential import RunCredential
from agent_sdk.transport import Receiver


class Desk(Protocol):
    """Who answers: `agent_sdk.testing.FakeDesk`."""

    def answer(self, envelope: bytes, agent_id: str) -> bytes | None:
        """Open a request of an agent and seal the reply to it."""
        ...

    def consult(self) -> None:
        """Have people decide, if there are any, after the reply is on its way."""
        ...

    def connect(self, transport: "DeskTransport", *, connected: bool) -> None:
        """Keep in mind who is shown notices."""
        ...


class DeskTransport:
    """Carries envelopes to a `FakeDesk` in the same process and back (`agent_sdk.transport.Transport`).

    Args:
        desk: who answers.
        credential: the run that asks.
    """

    def __init__(self, desk: Desk, credential: RunCredential) -> None:
        self.problem: str | None = None
        self.credential = credential
        self._desk = desk
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, receiver: Receiver) -> None:
        """Remember who takes the answers."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._desk.connect(self, connected=True)

    def send(self, request_id: bytes, envelope: bytes) -> None:  # the protocol's signature
        """Have the desk answer, on a later turn of the event loop, as a queue would."""
        reply = self._desk.answer(envelope, self.credential.agent_id)
        if reply is not None:
            self.deliver(reply)
        self._desk.consult()

    def forget(self, request_id: bytes) -> None:
        """Do nothing: what was sent was answered."""

    async def close(self) -> None:
        """Deliver nothing any more."""
        self._receiver = None
        self._desk.connect(self, connected=False)

    def deliver(self, envelope: bytes) -> None:
        """Have an envelope arrive; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrive, envelope)

    def _arrive(self, envelope: bytes) -> None:
        if self._receiver is not None:
            self._receiver.deliver([envelope])
