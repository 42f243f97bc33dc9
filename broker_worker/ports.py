"""Protocols for everything outside: what the pipeline and the worker need, and who provides it.

Adapters are made in `broker_worker.app` only. Each port has a fault test: what happens when it fails is part of
the contract written here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.errors import ProviderError


class Clock(Protocol):
    """The time, passed in so that tests can turn it."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A value as a vault gave it.

    Args:
        value: 1 byte to 128 KiB; never shown by `repr`.
        version: the vault's own version, if it has one.
    """

    value: bytes = field(repr=False)
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a provider can serve, and what to do if not."""

    ok: bool
    detail: str
    hint: str = ""


class Provider(Protocol):
    """A vault. All providers pass `tests/integration/provider_conformance.py`."""

    @property
    def name(self) -> str:
        """The provider's type, as in `broker.yaml` and in the audit."""
        ...

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values.

        Args:
            refs: references of this provider's scheme, without repetition.

        Returns:
            For every reference either its value or why there is none. One reference's failure never costs
            another its value.

        Raises:
            ProviderError: if the vault as a whole cannot serve; it then holds for every reference.
        """
        ...

    async def put(self, ref: str, value: bytes) -> str | None:
        """Store a value and return its version, if the vault has versions.

        Raises:
            ProviderError: kind `READ_ONLY` if this provider cannot write.
        """
        ...

    async def health(self) -> Health:
        """Whether the vault can be reached and lets us in; never raises."""
        ...

    async def close(self) -> None:
        """Forget the vault's credentials and close connections."""
        ...


class AuditSink(Protocol):
    """Where records become durable. No audit, no secret."""

    def append(self, records: Sequence[AuditRecord]) -> None:
        """Chain the records, write them, sign a checkpoint and sync it all to disk, once for the batch.

        Raises:
            AuditError: if that did not happen; the caller then releases nothing.
        """
        ...
