"""Leases and revocations, whole: a real client, real workers, orders by file and by queue."""

from typing import Any

import pytest
from broker_home import Home
from desk_workbench import until
from fake_vault import FakeVault
from people_home import asked, decide, waiting_for

from agent_sdk.errors import LeaseExpired, NotGranted, Revoked
from agent_sdk.wire import keynames
from broker_worker.people.revoking import reinstate, revoke


async def test_a_lease_is_renewed_and_given_back_by_its_holder_alone(desk: Home) -> None:
    """Another run's request with the same token is invalid."""
    async with desk.working(), desk.client() as claude, desk.client() as other:
        secret = await claude.get("openai.api_key")
        renewed = await claude.renew(secret)
        assert renewed.reveal() == "value of openai"
        with pytest.raises(NotGranted):
            await other.renew(renewed)
        await claude.release(renewed)
        with pytest.raises(LeaseExpired):
            renewed.reveal()
    shown = [(r.action, r.outcome, r.lease_id is not None) for r in desk.records("access")]
    assert shown == [("resolve", "granted", True), ("renew", "granted", True), ("release", "granted", True)]


@pytest.mark.parametrize("kind", ["run", "agent", "secret", "lease", "token"])
async def test_what_was_revoked_ends_at_once_and_is_refused_from_then_on(desk: Home, kind: Any) -> None:
    """The holder's copy is gone, the next request is refused, and the audit of every worker says so."""
    async with desk.working(), desk.client(run_id="run-1") as claude:
        secret = await claude.get("openai.api_key")
        (granted,) = desk.records("access")
        subject = {
            "run": "claude/run-1",
            "agent": "claude",
            "secret": "openai.api_key",
            "lease": granted.lease_id,
            "token": granted.token_id,
        }[kind]
        assert subject is not None
        await revoke(desk.settings, kind, subject, reason="leaked", by="olivia")

        def is_gone() -> bool:
            try:
                secret.reveal()
            except LeaseExpired:
                return True
            return False

        await until(is_gone)
        if kind == "lease":
            assert (await claude.get("openai.api_key")).reveal() == "value of openai"
        else:
            with pytest.raises(Revoked):
                await claude.get("openai.api_key")
            await reinstate(desk.settings, kind, subject, reason="rotated", by="olivia")
            await until(lambda: desk.records("reinstated"))
            assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    (order,) = desk.records("revoked")
    assert (order.subject, order.reason, order.approver) == (f"{kind}:{subject}", "leaked", "olivia")
    assert [r.lease_id for r in desk.records("lease_ended")] == [granted.lease_id]


async def test_a_wiped_queue_undoes_no_revocation(desk: Home) -> None:
    """Nor does a restart: they are in a file of the broker's own."""
    await desk.set_users()
    await revoke(desk.settings, "agent", "claude", reason="leaked", by="olivia")
    redis = desk.redis()
    redis.delete(keynames.CONTROL)
    redis.close()
    async with desk.working(FakeVault()), desk.client() as claude:
        with pytest.raises(Revoked):
            await claude.get("openai.api_key")


async def test_an_approval_for_a_revoked_run_releases_nothing(desk: Home) -> None:
    """The person approved, the operator revoked: the operator wins."""
    async with desk.working(), desk.client(run_id="run-9") as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        await revoke(desk.settings, "run", "claude/run-9", reason="leaked", by="olivia")
        await until(lambda: desk.records("revoked"))
        decide(desk, request)
        with pytest.raises(Revoked):
            await waits


async def test_every_worker_refuses_what_was_revoked(desk: Home) -> None:
    """Two workers share the queue: each has the order from the file or the queue, and says so in its own chain."""
    async with desk.working(), desk.working(name="worker-2"), desk.client(run_id="run-1") as claude:
        await claude.get("openai.api_key")
        await revoke(desk.settings, "run", "claude/run-1", reason="leaked", by="olivia")
        await until(lambda: {r.worker for r in desk.records("revoked")} == {"worker-1", "worker-2"})
        for _ in range(10):
            with pytest.raises(Revoked):
                await claude.get("openai.api_key")
