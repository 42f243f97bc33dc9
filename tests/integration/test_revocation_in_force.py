"""What was revoked is refused by running workers within moments, and stays refused whatever the queue forgets."""

import asyncio
from pathlib import Path

import nacl.bindings as sodium
import pytest
from broker_home import Home
from desk_workbench import until
from redis import Redis

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import LeaseRevoked, Revoked
from agent_sdk.wire import keynames
from broker_worker.core.control import revocation_message
from broker_worker.core.errors import SetupError
from broker_worker.core.revocations import Kind, Revocation, sign_revocation
from broker_worker.files.keys import CONTROL, PUBLIC_CONTROL, load_seed
from broker_worker.people.revoking import NotAnnouncedError, orders_of, reinstate, revoke, revoke_all
from broker_worker.settings import Settings

NAME = "openai.api_key"
WHY = {"reason": "gone mad", "by": "maria"}


async def is_refused(client: AsyncSecretBroker) -> bool:
    try:
        await client.get(NAME)
    except Revoked:
        return True
    return False


async def until_refused(client: AsyncSecretBroker) -> None:
    """Ask until it is refused, or fail at the deadline."""
    async with asyncio.timeout(45):
        while not await is_refused(client):  # noqa: ASYNC110  # each turn asks the broker
            await asyncio.sleep(0.02)


def announce(home: Home, signed: bytes) -> None:
    """Put an order onto the queue alone, as it comes from another host."""
    with home.redis() as redis:
        redis.xadd(keynames.CONTROL, {keynames.MESSAGE_FIELD: revocation_message(signed)})


def signed(home: Home, secret: bytes | None = None) -> bytes:
    order = Revocation(
        revocation_id="0123456789abcdef", order="revoke", kind="agent", subject="claude", at=home.clock.now(), **WHY
    )
    own = sodium.crypto_sign_seed_keypair(load_seed(home.settings.keys_dir / CONTROL))[1]
    return sign_revocation(order, secret or own)


@pytest.mark.parametrize("kind", ["agent", "run", "token", "secret", "lease"])
async def test_order_ends_what_is_held_and_refuses_what_is_asked(home: Home, kind: Kind) -> None:
    """The SDK drops its copy, the audit says who ended what, and other runs are served if they are not meant."""
    async with home.working(), home.client(run_id="run-1") as claude, home.client("codex") as codex:
        held = await claude.get(NAME)
        assert held.reveal() == "value of openai"
        (access,) = home.records("access")
        subjects = {"agent": "claude", "run": "claude/run-1", "secret": NAME, "token": access.token_id}
        subject = subjects.get(kind) or access.lease_id or ""
        order = await revoke(home.settings, kind, subject, **WHY)
        await until(lambda: home.records("lease_ended"))
        if kind != "lease":
            await until_refused(claude)
        assert await is_refused(codex) == (kind == "secret")
        (ended,) = home.records("lease_ended")
        assert (ended.lease_id, ended.subject) == (access.lease_id, order.label)
        (revoked,) = home.records("revoked")
        assert (revoked.subject, revoked.approver, revoked.reason) == (order.label, "maria", "gone mad")
        async with asyncio.timeout(45):
            while True:
                try:
                    held.reveal()
                except LeaseRevoked:
                    break
                await asyncio.sleep(0.02)
    home.check_audit()


async def test_reinstated_run_is_served_again(home: Home) -> None:
    """An order taken back is taken back on running workers as well."""
    async with home.working(), home.client() as claude:
        await revoke(home.settings, "agent", "claude", **WHY)
        await until_refused(claude)
        await reinstate(home.settings, "agent", "claude", **WHY)
        await until(lambda: home.records("reinstated"))
        assert not await is_refused(claude)


async def test_file_alone_is_enough_on_this_host(home: Home, tmp_path: Path) -> None:
    """When the queue does not take the order, workers of this host find it in the file."""
    async with home.working(), home.client() as claude:
        away = Settings(home=home.settings.home, redis_url=f"unix://{tmp_path}/none.sock")
        with pytest.raises(NotAnnouncedError):
            await revoke(away, "agent", "claude", **WHY)
        await until_refused(claude)


async def test_order_of_another_host_outlives_the_queue_and_the_worker(home: Home) -> None:
    """What came over the queue alone is kept in the file here, so that wiping the queue undoes nothing."""
    async with home.working(), home.client() as claude:
        announce(home, signed(home))
        await until_refused(claude)
        await until(lambda: home.settings.revocations_file.exists())
    with Redis.from_url(home.settings.redis_url or "") as client:
        client.flushall()
    async with home.working(), home.client() as claude:
        assert await is_refused(claude)
    assert [each.label for each in orders_of(home.settings)] == ["agent:claude"]


async def test_forged_order_does_nothing_but_show_in_the_audit(home: Home) -> None:
    """Who owns the queue can neither stop an agent nor have one served again."""
    forger = sodium.crypto_sign_seed_keypair(bytes(32))[1]
    async with home.working(), home.client() as claude:
        announce(home, signed(home, forger))
        await until(lambda: home.records("decision_refused"))
        assert not await is_refused(claude)
    assert [event.reason for event in home.records("decision_refused")] == ["forged"]
    assert not home.settings.revocations_file.exists()


async def test_exactly_the_leases_named_end(home: Home) -> None:
    """Many leases at once: those end, one beside them stays."""
    async with home.working(), home.client() as claude, home.client("codex") as codex:
        held = await codex.get(NAME)
        await claude.get_many([NAME, "anthropic.api_key"])
        leases = [event.lease_id or "" for event in home.records("access") if event.agent_id == "claude"]
        await revoke_all(home.settings, "lease", leases, **WHY)
        await until(lambda: len(home.records("lease_ended")) == 2)
        assert held.reveal() == "value of openai"
    assert {event.lease_id for event in home.records("lease_ended")} == set(leases)


@pytest.mark.parametrize("harm", ["key lost", "key exchanged", "file of junk", "file open to others"])
async def test_worker_does_not_start_where_revocations_cannot_be_believed(home: Home, harm: str) -> None:
    """Rather no broker than one that serves what was revoked."""
    await home.set_users()
    await revoke(home.settings, "agent", "claude", **WHY)
    key, file = home.settings.keys_dir / CONTROL, home.settings.revocations_file
    if harm == "key lost":
        key.unlink()
        (home.settings.keys_dir / PUBLIC_CONTROL).unlink()
    elif harm == "key exchanged":
        key.write_bytes((home.settings.keys_dir / "jobs.key").read_bytes())
    elif harm == "file of junk":
        file.write_bytes(b"junk\n")
    else:
        file.chmod(0o644)
    with pytest.raises(SetupError):
        async with home.working():
            pass
