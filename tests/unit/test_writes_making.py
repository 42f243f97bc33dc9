"""Making values holds up nobody who reads a vault in a thread."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from desk_workbench import until

from agent_sdk.wire.messages import Generate
from broker_worker.worker import writes as writes_module
from broker_worker.worker.writes import Writes


def _ask() -> Any:
    body, case = Generate("made.key", "rsa:4096"), SimpleNamespace(entry=SimpleNamespace(ref="local://a"), code=None)
    return SimpleNamespace(request=SimpleNamespace(body=body), cases=[case], code=None, entry=None)


async def test_other_threads_are_free_while_keys_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are asked for at once and none is made yet; a thread of everybody's is had all the same."""
    may_go = threading.Event()
    monkeypatch.setattr(writes_module, "generate", lambda _: b"key" if may_go.wait(45) else b"")
    writes = Writes({}, asyncio.Event())
    running = asyncio.ensure_future(writes.run())
    writes.add([_ask() for _ in range(40)])
    await until(lambda: writes._makers._work_queue.qsize() > 0)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "had"), 5) == "had"
    may_go.set()
    running.cancel()
