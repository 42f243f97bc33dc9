"""The gateway's own run: its credential is read anew before it ends, and nothing is asked with one that is over."""

import asyncio
from datetime import timedelta

import pytest
import structlog

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.errors import CredentialInvalid, Unavailable
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from broker_worker.gateway import asking
from broker_worker.gateway.asking import Clients

HOUR = 3_600_000


class Bench:
    """A desk, and a file with a credential that a test writes anew."""

    def __init__(self) -> None:
        self.desk = FakeDesk({"openai_key": "x"})
        self.now = 0
        self.fault: CredentialInvalid | None = None
        self.made: list[FakeAsyncSecretBroker] = []
        self.write()
        self.clients = Clients(self.load, self.connect, lambda: self.now)

    def write(self) -> None:
        """Another credential, good for an hour."""
        old = self.desk.credential("gateway")
        self.credential = RunCredential(
            agent_id=old.agent_id,
            run_id=old.run_id,
            token=f"{old.token}{len(self.made)}{self.now}",
            seed=old.seed,
            broker=old.broker,
            intake=old.intake,
            queue_url=old.queue_url,
            expires_at=self.now + HOUR,
        )

    def load(self) -> RunCredential:
        if self.fault is not None:
            raise self.fault
        return self.credential

    def connect(self, _credential: RunCredential) -> AsyncSecretBroker:
        self.made.append(FakeAsyncSecretBroker(desk=self.desk))
        return self.made[-1]


@pytest.fixture
def bench() -> Bench:
    """A gateway's clients."""
    return Bench()


async def test_one_client_serves_until_there_is_a_newer_credential(bench: Bench) -> None:
    """The file is looked at from half of the time on; the client before is closed when what it does is done."""
    first = await bench.clients.current()
    bench.write()
    assert await bench.clients.current() is first
    bench.now = HOUR // 2
    bench.write()
    second = await bench.clients.current()
    assert second is not first
    assert (await first.get("openai_key")).reveal() == "x", "it was cut off at once"
    await bench.clients.close()
    for client in bench.made:
        with pytest.raises(Exception, match="closed"):
            await client.get("openai_key")


async def test_the_client_before_is_closed_in_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the longest request that it can have is over."""
    monkeypatch.setattr(asking, "TIMEOUT_SECONDS", 0)
    first = await bench.clients.current()
    bench.now = HOUR // 2
    bench.write()
    await bench.clients.current()
    await asyncio.gather(*bench.clients._retiring)
    with pytest.raises(Exception, match="closed"):
        await first.get("openai_key")
    await bench.clients.close()


async def test_a_credential_that_is_over_asks_nothing(bench: Bench) -> None:
    """Until there is a new one; the file is read every few seconds, not at every request."""
    assert bench.clients.is_good
    bench.now, bench.fault = HOUR, CredentialInvalid("half written")
    with structlog.testing.capture_logs() as logs:
        assert not bench.clients.is_good
        with pytest.raises(Unavailable, match="the gateway's own credential is over"):
            await bench.clients.current()
    assert [log["event"] for log in logs] == ["credential_over"]
    bench.fault = None
    bench.write()
    assert not bench.clients.is_good
    bench.now += 5000
    assert bench.clients.is_good
    assert timedelta(milliseconds=bench.credential.expires_at - bench.now) > timedelta(minutes=59)
    await bench.clients.close()
