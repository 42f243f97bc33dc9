"""What an agent holds can be renewed and given back, and it loses what the broker takes back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from agent_sdk import (
    Code,
    Denied,
    Expired,
    InvalidRequest,
    LeaseExpired,
    Revoked,
    Secret,
    Unavailable,
)
from agent_sdk.exchange import Exchange
from agent_sdk.outcome import Answer
from agent_sdk.secret import loan_of
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker
from agent_sdk.wire.messages import Result

MINUTE = timedelta(minutes=1)


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": "value-b"}, ttl=5 * MINUTE)


@pytest.fixture
async def client(desk: FakeDesk) -> AsyncIterator[FakeAsyncSecretBroker]:
    async with FakeAsyncSecretBroker(desk=desk) as client:
        yield client


def _operations(desk: FakeDesk) -> list[str]:
    return [request.operation for request in desk.requests]


def answering(monkeypatch: pytest.MonkeyPatch, client: FakeAsyncSecretBroker, answer: Answer) -> None:
    """Have the broker say something of its own."""

    async def ask(*arguments: Any) -> Answer:
        return answer

    monkeypatch.setattr(Exchange, "ask", ask)


class TestRenewing:
    """The very same object lives longer."""

    async def test_a_renewed_secret_lives_longer_wherever_it_is_kept(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Nobody has to be handed a new object, so nobody can go on with an old one."""
        secret = await client.get("a.key")
        held_elsewhere, ends = secret, secret.expires_at
        desk.advance(4 * MINUTE)
        assert await client.renew(secret) is secret
        assert ends is not None
        assert secret.expires_at is not None
        assert secret.expires_at - ends >= 4 * MINUTE
        desk.advance(4 * MINUTE)
        assert held_elsewhere.reveal() == "value-a"

    async def test_renewing_leads_no_further_than_the_leases_hard_end(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Then it is over, and the broker is asked for a new one."""
        desk.max_ttl = 6 * MINUTE
        secret = await client.get("a.key")
        desk.advance(4 * MINUTE)
        await client.renew(secret)
        desk.advance(2 * MINUTE)
        with pytest.raises(LeaseExpired, match=r"a\.key expired at"):
            secret.reveal()

    async def test_what_expired_stays_expired(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """Neither renewing nor a clock that is set back brings a value back."""
        secret = await client.get("a.key")
        desk.advance(6 * MINUTE)
        with pytest.raises(LeaseExpired):
            await client.renew(secret)
        assert _operations(desk) == ["resolve"]
        desk.advance(-6 * MINUTE)
        with pytest.raises(LeaseExpired):
            secret.reveal()
        assert loan_of(secret).take is None

    async def test_a_renewal_that_comes_too_late_changes_nothing(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """What was released or revoked while the broker answered stays so."""
        secret = await client.get("a.key")
        renewing = asyncio.ensure_future(client.renew(secret))
        await asyncio.sleep(0)
        await client.release(secret)
        with pytest.raises(LeaseExpired, match=r"a\.key was released"):
            await renewing

    async def test_the_value_lives_on_when_renewing_fails(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """An outage costs the agent nothing that it has."""
        secret = await client.get("a.key")
        desk.silent = True
        with pytest.raises(Unavailable):
            await client.renew(secret, timeout=0.05)
        assert secret.reveal() == "value-a"

    async def test_a_newer_version_ends_renewing(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """The old value may be used until its time is over; what is asked for next is the new one."""
        secret = await client.get("a.key")
        desk.rotate("a.key", "value-2")
        with pytest.raises(Expired):
            await client.renew(secret)
        assert secret.reveal() == "value-a"
        assert (await client.get("a.key")).reveal() == "value-2"

    async def test_a_lease_that_is_answered_as_revoked_is_dropped(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The answer makes up for a notice that was lost; other copies of the lease end with it."""
        secret, other = await client.get("a.key"), await client.get("a.key")
        desk.leases[0].ended = "revoked"
        with pytest.raises(Revoked):
            await client.renew(secret)
        assert secret.revoked
        assert other.revoked

    @pytest.mark.parametrize(
        "answer",
        [
            Answer({}),
            Answer({}, results=(Result("b.key", "granted", expires_at=1),)),
            Answer({}, results=(Result("a.key", "granted"),)),
            Answer({}, results=(Result("a.key", "granted", expires_at=1, lease=bytes(17)),)),
            Answer({}, results=(Result("a.key", "granted", expires_at=1),) * 2),
        ],
        ids=["nothing", "another name", "no end", "another lease", "two results"],
    )
    async def test_an_answer_about_something_else_renews_nothing(
        self, client: FakeAsyncSecretBroker, answer: Answer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It counts as no service."""
        secret = await client.get("a.key")
        ends = secret.expires_at
        answering(monkeypatch, client, answer)
        with pytest.raises(Unavailable, match=r"^a\.key: "):
            await client.renew(secret)
        assert secret.expires_at == ends

    async def test_a_refusal_names_the_secret(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """Also if the request is refused as a whole: another run's lease is none of this one's."""
        async with FakeAsyncSecretBroker(desk=desk) as other:
            secret = await other.get("a.key")
        with pytest.raises(InvalidRequest, match=r"^a\.key: ") as caught:
            await client.renew(secret)
        assert caught.value.names == ("a.key",)

    async def test_only_leased_secrets_can_be_renewed(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """Anything else is refused with words before anything is sent."""
        with pytest.raises(InvalidRequest, match=r"^c has no lease that could be renewed"):
            await client.renew(Secret("c", b"x"))
        for call in (client.renew, client.release):
            with pytest.raises(InvalidRequest, match="a secret is expected, as the client returned it; got str"):
                await call("value")  # type: ignore[arg-type]  # that is the question
        assert desk.requests == []


class TestReleasing:
    """The copy is dropped at once; the broker is told when it was the last."""

    async def test_a_released_secret_is_gone_and_the_broker_knows(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The value is dropped, the lease ends."""
        secret = await client.get("a.key")
        await client.release(secret)
        with pytest.raises(LeaseExpired, match=r"^a\.key was released: ask the broker for it again$"):
            secret.reveal()
        assert loan_of(secret).take is None
        assert desk.leases[0].ended == "released"

    async def test_another_tasks_copy_of_the_same_lease_goes_on(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Tasks that each ask for a name and release it do not pull it from under one another."""
        one, other = await client.get("a.key"), await client.get("a.key")
        assert one.lease_id == other.lease_id
        await client.release(one)
        assert other.reveal() == "value-a"
        assert _operations(desk) == ["resolve", "resolve"]
        await client.release(other)
        assert desk.leases[0].ended == "released"

    async def test_a_copy_that_nobody_holds_any_more_does_not_count(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """What the agent dropped is not held."""
        one = await client.get("a.key")
        await client.get("a.key")
        await client.list_names()  # until the next await, asyncio itself holds the last answer
        await client.release(one)
        assert desk.leases[0].ended == "released"

    async def test_releasing_can_be_tried_again_until_the_broker_knows(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The copy is gone all the same; once the broker knows, nothing is sent any more."""
        secret = await client.get("a.key")
        desk.silent = True
        with pytest.raises(Unavailable):
            await client.release(secret, timeout=0.05)
        assert secret.expired
        desk.silent = False
        await client.release(secret)
        assert desk.leases[0].ended == "released"
        count = len(desk.requests)
        await client.release(secret)
        assert len(desk.requests) == count

    async def test_releasing_what_is_over_is_quiet(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """A `finally` that releases does not hide the error that brought it there."""
        over, revoked, without_lease = await client.get("a.key"), await client.get("b.key"), Secret("c", b"x")
        desk.revoke("b.key")
        await client.list_names()
        desk.advance(6 * MINUTE)
        for secret in (over, revoked, without_lease):
            await client.release(secret)
        assert _operations(desk) == ["resolve", "resolve", "list"]

    @pytest.mark.parametrize("code", [Code.EXPIRED, Code.REVOKED])
    async def test_a_broker_that_knows_it_to_be_over_is_no_error(
        self, client: FakeAsyncSecretBroker, code: Code, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That it is over is what was wanted."""
        secret = await client.get("a.key")
        answering(monkeypatch, client, Answer({}, results=(Result("a.key", "refused", code),)))
        await client.release(secret)

    async def test_a_broker_that_does_not_take_it_back_is_an_error(
        self, client: FakeAsyncSecretBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lease then ends by itself; the copy is gone."""
        secret = await client.get("a.key")
        answering(monkeypatch, client, Answer({}, refused=Code.DENIED))
        with pytest.raises(Denied, match=r"^a\.key: denied"):
            await client.release(secret)
        assert secret.expired

    def test_the_blocking_client_renews_and_releases(self) -> None:
        """It is the same."""
        with FakeSecretBroker({"a": "x"}) as broker:
            secret = broker.get("a")
            assert broker.renew(secret, timeout=45) is secret
            broker.release(secret, timeout=45)
            assert secret.expired
            assert _operations(broker.desk) == ["resolve", "renew", "release"]

    async def test_closing_gives_nothing_back(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """Secrets outlive their client."""
        secret = await client.get("a.key")
        await client.close()
        assert secret.reveal() == "value-a"
        assert desk.leases[0].ended is None
