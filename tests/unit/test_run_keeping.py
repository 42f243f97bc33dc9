"""Keeping what a command holds: renewed in time, and people told when that ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from agent_sdk.errors import Denied
from agent_sdk.run.keeping import Keeping
from agent_sdk.secret import Secret
from agent_sdk.testing import FakeAsyncSecretBroker


class House:
    """A client, what it holds, and what people were told."""

    def __init__(self) -> None:
        self.client = FakeAsyncSecretBroker({"a.key": "A"}, on_notice=lambda notice: self.keeping.notice())
        self.told: list[str] = []
        self.revoked: list[str] = []
        self.keeping: Keeping

    async def keep(self) -> Secret:
        secret = await self.client.get("a.key")
        self.keeping = Keeping(self.client, [secret], self.told.append, self.revoked.append)
        return secret

    def renewals(self) -> int:
        return sum(request.operation == "renew" for request in self.client.desk.requests)


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    # Long before a lease's end, so that a test process which has to wait its turn does not miss it.
    monkeypatch.setattr("agent_sdk.run.keeping._EARLIEST", 0.001)
    monkeypatch.setattr("agent_sdk.run.keeping._LATEST", 0.002)
    monkeypatch.setattr("agent_sdk.run.keeping._SOON", 0.01)
    monkeypatch.setattr("agent_sdk.run.keeping._NO_LATER", timedelta(milliseconds=1))
    house = House()
    house.client.desk.ttl = timedelta(seconds=60)
    async with house.client:
        yield house
        await house.keeping.stop()


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.002)


async def test_a_lease_is_renewed_again_and_again_before_it_ends(house: House) -> None:
    """The secret outlives its first time, and people hear nothing."""
    secret = await house.keep()
    first = secret.expires_at
    await until(lambda: house.renewals() >= 3)
    assert not secret.expired
    assert secret.expires_at is not None
    assert first is not None
    assert secret.expires_at > first
    assert house.told == []


async def test_the_longest_life_is_told_and_ends_the_renewals(house: House) -> None:
    """The command keeps what it has."""
    house.client.desk.max_ttl = timedelta(milliseconds=200)
    await house.keep()
    await until(lambda: house.told)
    assert "the lease of a.key has reached its longest life and ends at " in house.told[0]
    assert "; the command keeps the value that it has" in house.told[0]
    assert house.revoked == []


async def test_a_renewal_that_is_refused_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; the command goes on."""

    async def refuse(secret: Secret) -> Secret:
        raise Denied("a.key: denied")

    monkeypatch.setattr(house.client, "renew", refuse)
    await house.keep()
    await until(lambda: house.told)
    assert house.told == ["the lease of a.key is not renewed: a.key: denied; the command goes on"]


async def test_a_broker_that_is_away_for_a_moment_is_asked_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to know."""
    await house.keep()
    house.client._timeout = 0.02
    house.client.desk.silent = True
    await until(lambda: house.renewals() >= 1)
    house.client.desk.silent = False
    await until(lambda: house.renewals() >= 3)
    assert house.told == []


async def test_a_broker_that_stays_away_until_the_end_is_told(house: House) -> None:
    """Once."""
    house.client.desk.ttl = timedelta(milliseconds=200)
    await house.keep()
    house.client._timeout = 0.02
    house.client.desk.silent = True
    await until(lambda: house.told)
    assert house.told == ["the lease of a.key has ended; the command keeps the value that it has"]


async def test_what_is_taken_back_is_told_once(house: House) -> None:
    """By the notice, and not again by the renewal that fails."""
    secret = await house.keep()
    house.client.desk.revoke("a.key")
    await until(lambda: house.revoked)
    await until(lambda: all(task.done() for task in house.keeping._tasks))
    assert (house.revoked, secret.revoked, house.told) == (["a.key"], True, [])


async def test_a_revocation_whose_notice_was_withheld_is_learnt_by_the_renewal(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue's owner can only delay it."""
    await house.keep()
    monkeypatch.setattr(house.client.desk, "notify", lambda *notice: None)
    house.client.desk.revoke("a.key")
    await until(lambda: house.revoked)
    assert house.revoked == ["a.key"]
