"""Approvals, leases and notices over a real queue, with an agent's own rights on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from sdk_responder import Letterbox, Responder, responding

from agent_sdk import ApprovalDenied, AsyncSecretBroker, LeaseRevoked, Revoked, RunCredential
from agent_sdk.testing import FakeDesk
from broker_worker.queue.acl import agent_rules


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": "value-b"}, needs_approval={"b.key"})


@pytest.fixture
async def responder(valkey_url: str, desk: FakeDesk) -> AsyncIterator[Responder]:
    async with responding(valkey_url, desk) as responder:
        yield responder


@pytest.fixture
async def client(desk: FakeDesk, valkey_url: str, responder: Responder) -> AsyncIterator[AsyncSecretBroker]:
    await responder.redis.execute_command(
        "ACL", "SETUSER", "agent-claude", "reset", "on", ">pw", *agent_rules("claude")
    )
    run: RunCredential = desk.credential("claude", queue_url=valkey_url.replace("unix://", "unix://agent-claude:pw@"))
    letterbox = Letterbox(responder, run)
    try:
        async with AsyncSecretBroker(run, clock=desk.clock) as client:
            yield client
        await asyncio.gather(*letterbox.letters)
    finally:
        await responder.redis.execute_command("ACL", "DELUSER", "agent-claude")


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_people_decide_while_the_agent_waits(client: AsyncSecretBroker, desk: FakeDesk, verdict: str) -> None:
    """A notice on the reply stream has the client ask again, and the answer is what was decided."""
    task = asyncio.ensure_future(client.get("b.key", purpose="deploy", timeout=60))
    await until(lambda: desk.approvals)
    if verdict == "approve":
        desk.approve()
        assert (await task).reveal() == "value-b"
    else:
        desk.deny()
        with pytest.raises(ApprovalDenied):
            await task
    assert len(desk.requests) == 2


async def test_many_wait_for_their_own_approvals(client: AsyncSecretBroker, desk: FakeDesk) -> None:
    """Each is woken by its own notice and asks once more."""
    purposes = [f"ticket {number}" for number in range(30)]
    tasks = [asyncio.ensure_future(client.get("b.key", purpose=purpose, timeout=60)) for purpose in purposes]
    await until(lambda: len(desk.approvals) == len(purposes))
    for approval in reversed(desk.approvals):
        desk.approve(approval)
    assert {secret.reveal() for secret in await asyncio.gather(*tasks)} == {"value-b"}
    assert len(desk.requests) == 2 * len(purposes)


async def test_a_lease_is_renewed_given_back_and_taken_back(client: AsyncSecretBroker, desk: FakeDesk) -> None:
    """The life of a lease, and its end from either side."""
    secret = await client.get("a.key")
    await client.renew(secret)
    await client.release(secret)
    secret = await client.get("a.key")
    desk.revoke("a.key")
    await until(lambda: secret.revoked)
    with pytest.raises(LeaseRevoked):
        secret.reveal()
    with pytest.raises(Revoked):
        await client.get("a.key")
    assert [lease.ended for lease in desk.leases] == ["released", "revoked"]


async def test_a_run_that_was_revoked_loses_what_it_holds(client: AsyncSecretBroker, desk: FakeDesk) -> None:
    """By a notice, without having asked for anything."""
    secret = await client.get("a.key")
    desk.revoke_runs()
    await until(lambda: secret.revoked)
