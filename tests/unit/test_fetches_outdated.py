"""A write while a place is being fetched: whoever shares the old call does not keep what it gives."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from desk_workbench import until
from fake_vault import FakeVault
from vault_workbench import StateNotebook, hardened

from broker_worker.pipeline.settling import Waiting
from broker_worker.ports import Fetched
from broker_worker.worker.fetches import Fetches

REF = "local://openai"


class SlowVault(FakeVault):
    """Reads first, and answers when the gate opens."""

    async def get_many(self, refs: Sequence[str]) -> Any:
        self.calls.append(tuple(refs))
        found = {ref: self._get(ref) for ref in refs}
        if self.gate is not None:
            await self.gate.wait()
        return found


@pytest.mark.parametrize("second_comes", ["before the write", "after the write"])
async def test_two_requests_that_share_an_old_call(second_comes: str) -> None:
    """Both are given the new value, and only that is kept at the end."""
    vault, kept, ready = SlowVault(), [], list[Waiting]()
    fetches = Fetches({"local": hardened(vault, StateNotebook(), deadline=5)}, lambda _, found, __: kept.append(found))
    running = asyncio.ensure_future(fetches.run())
    vault.gate = asyncio.Event()
    waiting: list[Waiting] = [Waiting(None, {REF: 60_000}), Waiting(None, {REF: 60_000})]  # type: ignore[arg-type]  # no ask is looked at
    fetches.add(waiting[:1])
    await until(lambda: vault.calls)
    if second_comes == "before the write":
        fetches.add(waiting[1:])
        await asyncio.sleep(0.01)
    vault.values[REF], vault.versions[REF] = b"new value", 8
    fetches.ask_again(REF)
    if second_comes == "after the write":
        fetches.add(waiting[1:])
        await asyncio.sleep(0.01)
    vault.gate.set()

    def both() -> bool:
        ready.extend(fetches.take_ready())
        return len(ready) == 2

    await until(both)
    running.cancel()
    assert {each.found[REF] for each in ready} == {Fetched(b"new value", "8")}
    assert set(kept) == {Fetched(b"new value", "8")}
