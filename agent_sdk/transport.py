"""How sealed envelopes travel: the protocol that a client needs, and the Redis transport that keeps it.

Nothing here can read what it carries.
"""

from collections.abc import Sequence
from typing import Protocol


class Receiver(Protocol):
    """Who takes what a transport brings. Called on the event loop; must not block."""

    def deliver(self, envelopes: Sequence[bytes]) -> None:
        """Take what was found on the run's reply stream, in order; anything may be among it."""
        ...

    def refuse(self, request_ids: Sequence[bytes], problem: str) -> None:
        """Learn that requests will not reach the broker, and why."""
        ...


class Transport(Protocol):
    """Carries envelopes to the broker and back, over connections that it mends by itself."""

    @property
    def problem(self) -> str | None:
        """What is in the way now, in words for people; None when nothing is."""
        ...

    def start(self, receiver: Receiver) -> None:
        """Begin to connect, in the background of the running event loop."""
        ...

    def send(self, request_id: bytes, envelope: bytes) -> None:
        """Take an envelope and send it as soon as possible.

        Args:
            request_id: what `forget` and `refuse` will call it.
            envelope: the sealed request.
        """
        ...

    def forget(self, request_id: bytes) -> None:
        """Do not send an envelope any more, if it was not sent yet."""
        ...

    async def close(self) -> None:
        """Close the connections. Nothing is sent or delivered afterwards."""
        ...
