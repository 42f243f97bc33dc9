"""A value on loan: nothing prints, copies or stores it by accident, and `reveal()` is the one way out."""

import hmac
import time
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn, Self, final

from agent_sdk.errors import NotText
from agent_sdk.loan import Loan
from agent_sdk.wire.messages import Source, lease_id


def wall_clock() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@final
class Secret:
    """A secret value, for as long as the broker lends it.

    `repr`, `str`, formatting, logging and tracebacks show `[secret <name>]`. Pickling, copying and JSON raise
    `TypeError`. Two secrets are equal only if they are the same object; `matches` compares values.

    The value is kept in ordinary memory, out of reach of anything that walks over attributes, but not of code that
    runs in the same process and looks for it. It is dropped when its time is over, when it is released, and when the
    broker takes it back.

    Args:
        name: the name that was asked for.
        value: the value.
        expires_at: ms since the epoch; None if it has no end.
        version: the vault's version of it, if the vault has versions.
        lease: the token of its lease, if it is one that can be renewed or given back.
        source: where the broker had it from.
        clock: the time in ms since the epoch.
    """

    __slots__ = ("__weakref__", "_loan")

    def __init__(
        self,
        name: str,
        value: bytes,
        *,
        expires_at: int | None = None,
        version: str | None = None,
        lease: bytes | None = None,
        source: Source | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._loan = Loan(name, lambda: value, expires_at, version, lease, source, clock, clock())

    @classmethod
    def of(cls, loan: Loan) -> Self:
        """The secret that a loan stands behind."""
        secret = cls.__new__(cls)
        secret._loan = loan  # noqa: SLF001  # its own class's, not yet initialised
        return secret

    @property
    def name(self) -> str:
        """The name that was asked for."""
        return self._loan.name

    @property
    def expires_at(self) -> datetime | None:
        """When `reveal()` ceases to work, in UTC; None if never."""
        return self._loan.ends

    @property
    def expired(self) -> bool:
        """Whether `reveal()` has ceased to work: its time is over, it was released, or it was revoked."""
        return self._loan.is_over

    @property
    def revoked(self) -> bool:
        """Whether the broker took it back."""
        return self._loan.ended == "revoked"

    @property
    def rotated(self) -> bool:
        """Whether the broker told that the vault has a newer value: ask for it when that is convenient."""
        return self._loan.rotated

    @property
    def version(self) -> str | None:
        """The vault's version of the value, if the vault has versions."""
        return self._loan.version

    @property
    def lease_id(self) -> bytes | None:
        """The lease's id, 16 bytes, if the value is leased; the audit has it in hexadecimal digits."""
        return None if self._loan.lease is None else lease_id(self._loan.lease)

    @property
    def source(self) -> Source | None:
        """Where the broker had the value from: `provider`, `cache`, or `stale`.

        A stale value is one from the cache that is past its time: its vault could not be asked for a newer one.
        """
        return self._loan.source

    @property
    def age(self) -> int | None:
        """How many seconds before it was handed out the broker had fetched it; None if it was fetched for that."""
        return self._loan.age

    def reveal(self) -> str:
        """The value as text.

        Raises:
            LeaseExpired: if its time is over, or it was released; `LeaseRevoked` if the broker took it back.
            NotText: if it is not UTF-8.
        """
        text = _decode(self.reveal_bytes())
        if text is None:
            raise NotText(f"the value of {self.name} is not UTF-8 text: use reveal_bytes()")
        return text

    def reveal_bytes(self) -> bytes:
        """The value as bytes.

        Raises:
            LeaseExpired: if its time is over, or it was released; `LeaseRevoked` if the broker took it back.
        """
        return self._loan.value()

    def matches(self, other: "Secret | str | bytes") -> bool:
        """Compare with another value in time that depends only on the lengths.

        Args:
            other: a secret, a text (compared as UTF-8) or bytes.

        Raises:
            LeaseExpired: if it, or the other secret, is over.
            TypeError: if the other is neither a secret nor a text nor bytes.
        """
        # In no variable, which a traceback of a secret that is over would show.
        return hmac.compare_digest(self.reveal_bytes(), _bytes_of(other))

    def __repr__(self) -> str:
        return f"[secret {self.name}]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a secret cannot be pickled or copied: pass the name {self.name!r} on and ask for it there")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)


def loan_of(secret: Secret) -> Loan:
    """What stands behind a secret; for the client, which renews and releases it."""
    return secret._loan  # noqa: SLF001  # out of the way of completion in an agent's editor


def _bytes_of(other: Secret | str | bytes) -> bytes:
    if isinstance(other, Secret):
        return other.reveal_bytes()
    return other.encode("utf-8", "surrogatepass") if isinstance(other, str) else other


def _decode(value: bytes) -> str | None:
    """Decode UTF-8. The decoding error holds the value, so it ends here."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
