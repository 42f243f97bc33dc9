"""A vault that gives what a test put into it, and misbehaves when told to."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health

VALUES = {"local://openai": b"value of openai", "local://anthropic": b"value of anthropic", "local://github": b"gh"}


class FakeVault:
    """A provider that gives what a test put into it, and misbehaves when told to.

    Args:
        values: per reference a value, an error, or anything else that a broken provider could return.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, name: str = "local") -> None:
        self.values = dict(VALUES if values is None else values)
        self.name = name
        self.calls: list[tuple[str, ...]] = []
        self.failure: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.answer: Any = None
        self.is_closed = False
        self.writes: list[tuple[str, bytes, str | None]] = []
        self.versions: dict[str, int] = {}
        self.write_failure: BaseException | None = None

    async def get_many(self, refs: Sequence[str]) -> Any:
        self.calls.append(tuple(refs))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return {ref: self._get(ref) for ref in refs} if self.answer is None else self.answer

    def _get(self, ref: str) -> Any:
        value = self.values.get(ref, ProviderError(FailureKind.NOT_FOUND, "there is no such entry"))
        return Fetched(value, self._version(ref)) if isinstance(value, bytes) else value

    def _version(self, ref: str) -> str:
        return str(self.versions.get(ref, 7)) if ref in self.values else ""

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        self.writes.append((ref, value, expected))
        if self.gate is not None:
            await self.gate.wait()
        if self.write_failure is not None:
            raise self.write_failure
        if expected not in (None, self._version(ref)):
            raise ProviderError(FailureKind.CONFLICT, "the place holds something else")
        self.versions[ref] = int(self._version(ref) or 0) + 1
        self.values[ref] = value
        return str(self.versions[ref])

    async def health(self) -> Health:
        return Health(True, "well")

    async def close(self) -> None:
        self.is_closed = True
