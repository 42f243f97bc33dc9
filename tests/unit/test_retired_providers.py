"""Providers that a reload replaces: whoever asked them before the files changed still gets an answer."""

import asyncio
from typing import cast

import pytest
from fake_vault import FakeVault

from broker_worker.app.compose import Process
from broker_worker.app.reloading import Reloader
from broker_worker.worker.writes import Writes


async def test_a_provider_is_closed_when_no_write_can_be_under_way_there_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write may take longer than a read; one provider may serve several schemes."""
    vault, waited = FakeVault(), list[float]()

    async def wait(seconds: float) -> None:
        assert not vault.is_closed
        waited.append(seconds)

    reloader = Reloader(cast(Process, None))
    monkeypatch.setattr(asyncio, "sleep", wait)
    reloader._retire({"local": vault, "env": vault})
    await asyncio.gather(*reloader._retired)
    assert waited == [Writes({}, asyncio.Event())._deadline]
    assert vault.is_closed
