"""What the broker takes back is dropped; what whoever owns the queue shows again does no more harm than once."""

import gc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from agent_sdk import Code, LeaseExpired, LeaseRevoked, Notice, Revoked, Secret, Subject
from agent_sdk.secret import loan_of
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk

MINUTE = timedelta(minutes=1)


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": "value-b"}, ttl=5 * MINUTE)


@pytest.fixture
async def client(desk: FakeDesk) -> AsyncIterator[FakeAsyncSecretBroker]:
    async with FakeAsyncSecretBroker(desk=desk) as client:
        yield client


async def test_a_revoked_secret_is_dropped_wherever_it_is_held(client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
    """Each copy, with an exception that those who expect an expiry understand; others stay."""
    copies, other = [await client.get("a.key"), await client.get("a.key")], await client.get("b.key")
    desk.revoke("a.key")
    await client.list_names()
    for secret in copies:
        with pytest.raises(LeaseRevoked, match=r"^a\.key was revoked: it must not be used any more$") as caught:
            secret.reveal()
        assert caught.value.code == Code.REVOKED
        assert (secret.revoked, secret.expired, loan_of(secret).take) == (True, True, None)
    assert issubclass(LeaseRevoked, LeaseExpired)
    assert (other.reveal(), other.revoked) == ("value-b", False)


async def test_a_revoked_run_loses_all_and_is_refused_by_the_broker_alone(
    client: FakeAsyncSecretBroker, desk: FakeDesk
) -> None:
    """The notice drops copies; whether later requests are refused is the broker's to say."""
    secrets = list((await client.get_many(["a.key", "b.key"])).values())
    desk.revoke_runs()
    with pytest.raises(Revoked):
        await client.get("a.key")
    assert all(secret.revoked for secret in secrets)
    desk.revoked_runs.clear()
    assert (await client.get("a.key")).reveal() == "value-a"


async def test_an_answer_that_anothers_run_is_revoked_ends_what_it_was_lent_and_nothing_else(
    client: FakeAsyncSecretBroker, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy goes on for the other runs, and a notice that was withheld is made up for."""
    first, second = Subject("token-1"), Subject("token-2")
    lent = await client.get("a.key", deliver="proxy", on_behalf_of=first)
    other = await client.get("a.key", deliver="proxy", on_behalf_of=second)
    own = await client.get("b.key")
    monkeypatch.setattr(desk, "notify", lambda *arguments: None)
    desk.revoke_runs()
    with pytest.raises(Revoked):
        await client.get("b.key", deliver="proxy", on_behalf_of=first)
    assert (lent.revoked, other.revoked, own.revoked) == (True, False, False)


async def test_an_answer_that_the_run_is_revoked_makes_up_for_a_lost_notice(
    client: FakeAsyncSecretBroker, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked."""
    secret = await client.get("a.key")
    monkeypatch.setattr(desk, "notify", lambda *arguments: None)
    desk.revoke_runs()
    assert not secret.revoked
    with pytest.raises(Revoked):
        await client.list_names()
    assert secret.revoked


async def test_an_answer_that_a_secret_is_revoked_makes_up_for_a_lost_notice(
    client: FakeAsyncSecretBroker, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy of it is dropped, also what was lent for other runs; what else was asked for is there."""
    held = [await client.get("a.key"), await client.get("a.key", deliver="proxy", on_behalf_of=Subject("token-1"))]
    monkeypatch.setattr(desk, "notify", lambda *arguments: None)
    desk.revoke("a.key")
    assert not any(secret.revoked for secret in held)
    answer = await client.get_many(["a.key", "b.key"], partial=True)
    assert [refusal.code for refusal in answer.refusals] == [Code.REVOKED]
    assert all(secret.revoked for secret in held)
    assert answer.secrets["b.key"].reveal() == "value-b"


async def test_a_notice_of_old_ends_nothing_that_was_released_later(
    client: FakeAsyncSecretBroker, desk: FakeDesk
) -> None:
    """A run that was revoked and reinstated keeps what it has, whatever the queue shows it of that time."""
    before = Notice("run_revoked", desk.clock())
    desk.advance(MINUTE)
    secret = await client.get("a.key")
    desk.notify(before)
    desk.notify(Notice("secret_rotated", before.at, "a.key"))
    await client.list_names()
    assert (secret.reveal(), secret.rotated) == ("value-a", False)
    desk.notify(Notice("run_revoked", desk.clock()))
    await client.list_names()
    assert secret.revoked


async def test_a_notice_that_is_shown_again_does_nothing(desk: FakeDesk) -> None:
    """Neither to what was released since, nor to the user's function."""
    seen: list[Notice] = []
    async with FakeAsyncSecretBroker(desk=desk, on_notice=seen.append) as client:
        notice = Notice("run_revoked", desk.clock())
        for _ in range(3):
            desk.notify(notice)
            await client.list_names()
            secret = await client.get("a.key")
    assert (seen, secret.revoked) == ([notice], False)


async def test_a_revoked_lease_does_not_come_back_with_a_late_answer(
    client: FakeAsyncSecretBroker, desk: FakeDesk
) -> None:
    """The queue may turn round the order of an answer and of the notice that takes it back."""
    await client.get("a.key")
    lease = desk.leases[0]
    desk.notify(Notice("lease_revoked", desk.clock(), "a.key", lease.lease_id))
    with pytest.raises(LeaseRevoked):
        (await client.get("a.key")).reveal()


async def test_the_clients_own_work_is_done_before_the_users_function_is_called(desk: FakeDesk) -> None:
    """So that it finds what the notice says."""
    found: list[bool] = []
    secret: Secret | None = None

    def look(notice: Notice) -> None:
        assert secret is not None
        found.append(secret.revoked)

    async with FakeAsyncSecretBroker(desk=desk, on_notice=look) as client:
        secret = await client.get("a.key")
        desk.revoke("a.key")
        await client.list_names()
    assert found == [True]


async def test_a_newer_value_is_told_and_takes_nothing_away(client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
    """The flag is a hint to ask again when that is convenient."""
    secret, other = await client.get("a.key"), await client.get("b.key")
    desk.rotate("a.key", "value-2")
    await client.list_names()
    assert (secret.rotated, secret.reveal(), other.rotated) == (True, "value-a", False)
    assert not (await client.get("a.key")).rotated


@pytest.mark.parametrize(
    "make",
    [
        lambda at: Notice("lease_revoked", at),
        lambda at: Notice("lease_revoked", at, "a.key", bytes(16)),
        lambda at: Notice("secret_rotated", at),
        lambda at: Notice("approval_settled", at),
        lambda at: Notice("approval_settled", at, approval=bytes(8)),
    ],
)
async def test_a_notice_about_nothing_that_is_held_changes_nothing(
    client: FakeAsyncSecretBroker, desk: FakeDesk, make: Callable[[int], Notice]
) -> None:
    """Fields that are left out, and leases and approvals that nobody knows."""
    secret = await client.get("a.key")
    desk.notify(make(desk.clock()))
    await client.list_names()
    assert (secret.reveal(), secret.rotated) == ("value-a", False)


async def test_no_secret_is_kept_alive_by_the_client(client: FakeAsyncSecretBroker) -> None:
    """What the agent dropped is gone, and with it the client's knowledge of it."""
    secrets = [await client.get("a.key") for _ in range(5)]
    assert len(client._exchange.holdings) == 5
    del secrets
    await client.list_names()  # until the next await, asyncio itself holds the last answer
    gc.collect()
    assert len(client._exchange.holdings) == 0
