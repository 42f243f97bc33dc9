"""What stands behind a `Secret`: the value, until when it is lent, and why it ended if it did.

A secret is what the agent holds; its loan is what the client still reaches when the broker takes something back.
Whatever ended stays ended: neither a clock that is set back nor a late renewal brings a value back.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from agent_sdk.errors import LeaseExpired, LeaseRevoked
from agent_sdk.wire.messages import Source

Ending = Literal["expired", "released", "revoked"]
END_OF_CALENDAR = 253_402_300_799_000
"""The last second of the year 9999, ms since the epoch, which is as far as datetime reaches."""

_WORDS: dict[Ending, str] = {
    "expired": "{name} expired at {ends:%Y-%m-%dT%H:%M:%SZ}: ask the broker for it again",
    "released": "{name} was released: ask the broker for it again",
    "revoked": "{name} was revoked: it must not be used any more",
}


class Loan(Struct, weakref=True, eq=False):
    """One value on loan. Its fields are read freely; they change through its methods only.

    Args:
        name: the name that was asked for.
        take: gives the value: a closure, so that what lists attributes does not show it. None once it ended.
        expires_at: ms since the epoch; None if it has no end.
        version: the vault's version of it, if the vault has versions.
        lease: the token of its lease, if it is leased; the first 16 bytes are the lease's id.
        source: where the broker had it from.
        clock: the time in ms since the epoch.
        received_at: when it came, ms since the epoch.
        ended: why it is over; None while it is not known to be.
        rotated: whether the broker told that the vault has a newer value.
        given_back: whether the broker knows that it was released.
        age: how many seconds before it was lent the broker had fetched it; None if it was fetched for that.
        subject: the token of the run that it was asked for, if that is another one.
    """

    name: str
    take: Callable[[], bytes] | None
    expires_at: int | None
    version: str | None
    lease: bytes | None
    source: Source | None
    clock: Callable[[], int]
    received_at: int = 0
    ended: Ending | None = None
    rotated: bool = False
    given_back: bool = False
    age: int | None = None
    subject: str | None = None

    def __repr__(self) -> str:
        """What it is a loan of, and no more."""
        return f"Loan({self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """The same for `rich`, whose own reading would show every field."""
        return [("name", self.name)]

    @property
    def is_over(self) -> bool:
        """Whether the value may not be used any more."""
        if self.ended is None and self.expires_at is not None and self.clock() >= self.expires_at:
            self.end("expired")
        return self.ended is not None

    @property
    def ends(self) -> datetime | None:
        """When it ends by itself, in UTC; None if never."""
        return (
            None
            if self.expires_at is None
            else datetime.fromtimestamp(min(self.expires_at, END_OF_CALENDAR) / 1000, UTC)
        )

    def value(self) -> bytes:
        """The value.

        Raises:
            LeaseExpired: if it is over.
        """
        take = self.take  # once: another thread may end it
        if self.is_over or take is None:
            raise self.error()
        return take()

    def check(self) -> None:
        """Make sure that it goes on.

        Raises:
            LeaseExpired: if it is over.
        """
        if self.is_over:
            raise self.error()

    def end(self, ending: Ending) -> None:
        """Drop the value. The first reason stays, except that what was revoked says so."""
        if self.ended is None or ending == "revoked":
            self.ended = ending
        self.take = None

    def prolong(self, expires_at: int) -> None:
        """Take the new end that the broker granted.

        Args:
            expires_at: ms since the epoch.

        Raises:
            LeaseExpired: if it is over by now.
        """
        self.check()
        self.expires_at = expires_at

    def error(self) -> LeaseExpired:
        """What whoever wants the value is told."""
        ending = self.ended or "expired"
        message = _WORDS[ending].format(name=self.name, ends=self.ends)
        return LeaseRevoked(message) if ending == "revoked" else LeaseExpired(message)
