"""Vaults whose calls fail in turn, are counted, or make credentials, for what all providers have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from fake_vault import FakeVault

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Scope
from broker_worker.providers.resilient import ResilientProvider

AWAY = ProviderError(FailureKind.UNREACHABLE, "away", hint="look")
REFUSED = ProviderError(FailureKind.UNAUTHENTICATED, "refused", hint="new token")
REFS = [f"op://v/i{number}/f" for number in range(500)]


class Vault(FakeVault):
    """A vault whose calls fail in turn as a test says, and which counts what is under way."""

    def __init__(self, failures: Sequence[Exception | None] = ()) -> None:
        super().__init__({ref: ref.encode() for ref in REFS}, name="op")
        self.failures = list(failures)
        self.under_way = 0
        self.most = 0
        self.puts: list[str] = []
        self.putting: Callable[[], Awaitable[str | None]] | None = None

    async def get_many(self, refs: Sequence[str]) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            failure = self.failures.pop(0) if self.failures else None
            if failure is not None:
                self.calls.append(tuple(refs))
                raise failure
            return await super().get_many(refs)
        finally:
            self.under_way -= 1

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        self.puts.append(ref)
        return None if self.putting is None else await self.putting()


class MeteredVault(Vault):
    """A vault that counts one read a call and one a reference."""

    def reads_of(self, refs: Sequence[str]) -> int:
        return 1 + len(refs)


class LendingVault(Vault):
    """A vault that makes credentials, takes them back, and can say what it sees."""

    revoked: str = ""

    async def revoke(self, upstream_lease: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.revoked = upstream_lease

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        return Scope("vaults", ("Private",), "narrow it")


async def kinds(provider: ResilientProvider, refs: Sequence[str]) -> list[str]:
    """What each reference gets: `value`, or why not."""
    try:
        answers = await provider.get_many(refs)
    except ProviderError as error:
        return [error.kind.value] * len(refs)
    return ["value" if isinstance(answers[ref], Fetched) else str(answers[ref].kind) for ref in refs]  # type: ignore[union-attr]  # the other one is an error
