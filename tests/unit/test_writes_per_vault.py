"""A vault that hangs takes no room from writes to another one."""

import asyncio
from types import SimpleNamespace
from typing import Any

from fake_vault import FakeVault

from agent_sdk.wire.messages import Put
from broker_worker.worker.writes import MAX_WRITES, Writes


def _ask(ref: str) -> Any:
    refused: list[Any] = []
    case = SimpleNamespace(entry=SimpleNamespace(ref=ref), code=None, refuse=lambda *why: refused.append(why))
    body = Put("made.key", b"a value")
    return SimpleNamespace(request=SimpleNamespace(body=body), cases=[case], code=None, entry=None, refused=refused)


async def test_a_hanging_vault_takes_no_room_from_another() -> None:
    """It is full; the other one is not."""
    writes = Writes({"vault": FakeVault(), "local": FakeVault()}, asyncio.Event())
    writes.add([_ask("vault://kv/a#b") for _ in range(MAX_WRITES)])
    one_more, other = _ask("vault://kv/a#b"), _ask("local://a")
    writes.add([one_more, other])
    assert one_more.refused[0][1] == "too_many_writes"
    assert other.refused == []
