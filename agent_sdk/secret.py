"""A value on loan: nothing prints, copies or stores it by accident, and `reveal()` is the one way out."""

import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NoReturn, final

from agent_sdk.errors import LeaseExpired, NotText

_END = 253_402_300_799_000  # the last second of the year 9999, which is as far as datetime reaches


def wall_clock() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@final
class Secret:
    """A secret value, for as long as the broker lends it.

    `repr`, `str`, formatting, logging and tracebacks show `[secret <name>]`. Pickling, copying and JSON raise
    `TypeError`. Two secrets are equal only if they are the same object; `matches` compares values.

    The value is kept in ordinary memory, out of reach of anything that walks over attributes, but not of code that
    runs in the same process and looks for it.

    Args:
        name: the name that was asked for.
        value: the value.
        expires_at: ms since the epoch; None if it has no end.
        version: the vault's version of it, if the vault has versions.
        lease_id: names the lease, if it is one that can be renewed or given back.
        source: where the broker had it from.
        clock: the time in ms since the epoch.
    """

    __slots__ = ("__weakref__", "_clock", "_expires_at", "_lease_id", "_name", "_source", "_value", "_version")

    def __init__(
        self,
        name: str,
        value: bytes,
        *,
        expires_at: int | None = None,
        version: str | None = None,
        lease_id: bytes | None = None,
        source: Literal["cache", "provider"] | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._name = name
        # A closure, so that vars(), inspect and debuggers that list attributes do not show the value.
        self._value: Callable[[], bytes] = lambda: value
        self._expires_at = expires_at
        self._version = version
        self._lease_id = lease_id
        self._source = source
        self._clock = clock

    @property
    def name(self) -> str:
        """The name that was asked for."""
        return self._name

    @property
    def expires_at(self) -> datetime | None:
        """When `reveal()` ceases to work, in UTC; None if never."""
        return None if self._expires_at is None else datetime.fromtimestamp(min(self._expires_at, _END) / 1000, UTC)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self._expires_at is not None and self._clock() >= self._expires_at

    @property
    def version(self) -> str | None:
        """The vault's version of the value, if the vault has versions."""
        return self._version

    @property
    def lease_id(self) -> bytes | None:
        """The lease's id, if the value is leased."""
        return self._lease_id

    @property
    def source(self) -> Literal["cache", "provider"] | None:
        """Where the broker had the value from."""
        return self._source

    def reveal(self) -> str:
        """The value as text.

        Raises:
            LeaseExpired: if its time is over.
            NotText: if it is not UTF-8.
        """
        text = _decode(self.reveal_bytes())
        if text is None:
            raise NotText(f"the value of {self._name} is not UTF-8 text: use reveal_bytes()")
        return text

    def reveal_bytes(self) -> bytes:
        """The value as bytes.

        Raises:
            LeaseExpired: if its time is over.
        """
        if self.expired:
            raise LeaseExpired(
                f"{self._name} expired at {self.expires_at:%Y-%m-%dT%H:%M:%SZ}: ask the broker for it again"
            )
        return self._value()

    def matches(self, other: "Secret | str | bytes") -> bool:
        """Compare with another value in time that depends only on the lengths.

        Raises:
            LeaseExpired: if its time, or that of the other secret, is over.
        """
        if isinstance(other, Secret):
            other = other.reveal_bytes()
        elif isinstance(other, str):
            other = other.encode()
        return hmac.compare_digest(self.reveal_bytes(), other)

    def __repr__(self) -> str:
        return f"[secret {self._name}]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a secret cannot be pickled or copied: pass the name {self._name!r} on and ask for it there")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)


def _decode(value: bytes) -> str | None:
    """Decode UTF-8. The decoding error holds the value, so it ends here."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
