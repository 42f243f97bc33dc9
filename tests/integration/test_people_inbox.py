"""The inbox on a real server: what people are asked, what they decided, and what is only written as if."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from broker_home import Home
from desk_workbench import until
from people_workbench import ALICE, BOB, MINUTE, POLICY, AskingHome, Person, put_decision
from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.core.approvals import sign_request
from broker_worker.core.errors import ApprovalError, ConfigError, QueueError, SetupError
from broker_worker.files.keys import (
    CONTROL,
    PUBLIC_CONTROL,
    PUBLIC_IDENTITY,
    load_broker_keys,
    load_public_identity,
    write_public_identity,
)
from broker_worker.people import inbox as inbox_module
from broker_worker.people.current_rules import CurrentRules
from broker_worker.people.inbox import Inbox, Item, open_inbox
from broker_worker.people.revoking import reinstate, revoke


@pytest.fixture
async def asking(home: Home) -> AskingHome:
    """An installation that asks alice and bob, with its users on the queue."""
    home.write(policy=POLICY)
    asking = AskingHome(home.settings)
    asking.set_people(ALICE, BOB)
    await home.set_users()
    return asking


@pytest.fixture
def redis(home: Home) -> Iterator["Redis"]:
    """The queue, with a worker's rights."""
    with home.redis() as client:
        yield client


def now() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def opened(asking: AskingHome) -> AsyncIterator[Inbox]:
    """The inbox, with everything read."""
    async with open_inbox(asking.settings, CurrentRules(asking.settings.config_dir), now) as inbox:
        yield inbox


def states(inbox: Inbox) -> list[tuple[str, str, int]]:
    """Run, state and how many are missing, the newest first."""
    return [(item.request.run_id, item.state, item.missing) for item in inbox.items()]


async def test_what_is_asked_and_what_came_of_it(asking: AskingHome, redis: "Redis") -> None:
    """Waiting, approved, denied, expired and void, as every worker sees it too."""
    at = now()
    asked = {name: asking.ask(redis, at, run_id=name) for name in ("waits", "approved", "denied")}
    asking.ask(redis, at - 11 * MINUTE, run_id="expired")
    put_decision(redis, ALICE.decide(asked["approved"], at=at))
    put_decision(redis, BOB.decide(asked["denied"], "deny", at=at))
    async with opened(asking) as inbox:
        assert states(inbox) == [
            ("expired", "expired", 0),
            ("denied", "denied", 0),
            ("approved", "approved", 0),
            ("waits", "waiting", 1),
        ]
        (asking.settings.config_dir / "policy.yaml").write_text(POLICY.replace("[ops]", "[ops, leads]"))
        assert {state for _, state, _ in states(inbox)} == {"void"}


async def test_forged_entries_are_counted_and_ignored(asking: AskingHome, redis: "Redis") -> None:
    """Requests that the broker did not sign, decisions that nobody made, and bytes without a meaning."""
    asked = asking.ask(redis, now())
    forged = sign_request(asked, ALICE.secret)
    for raw in (forged, b"", b"x" * 100):
        redis.xadd(keynames.APPROVALS, {keynames.MESSAGE_FIELD: raw})
    redis.xadd(keynames.APPROVALS, {"other": b"x"})
    redis.xadd(keynames.CONTROL, {keynames.MESSAGE_FIELD: b"\xff"})
    put_decision(redis, Person("mallory").decide(asked, at=now()))
    imposter = Person("mallory")
    imposter.name = "alice"
    put_decision(redis, imposter.decide(asked, at=now()))
    async with opened(asking) as inbox:
        assert states(inbox) == [("run-1", "waiting", 1)]
        assert inbox.ignored == {"forged": 1, "malformed": 4, "unknown_approver": 1, "bad_signature": 1}


async def test_a_decision_that_is_submitted_counts_for_everybody(asking: AskingHome, redis: "Redis") -> None:
    """Here at once, and for whoever reads the queue; its way back to us is no second decision."""
    asked = asking.ask(redis, now(), quorum=2)
    async with opened(asking) as inbox, opened(asking) as other:
        item = await inbox.submit(ALICE.decide(asked, at=now()))
        assert (item.state, item.missing) == ("waiting", 1)
        assert (await inbox.submit(BOB.decide(asked, at=now()))).state == "approved"
        await other.refresh()
        assert [state for _, state, _ in states(other)] == ["approved"]
        put_decision(redis, ALICE.decide(asked, at=now()))
        await inbox.refresh()
        assert inbox.ignored == {"decided_already": 1}


@pytest.mark.parametrize(
    ("person", "message"),
    [
        (Person("mallory"), "approvers.yaml does not know who decided"),
        (Person("alice", "leads"), ""),
    ],
)
async def test_what_would_not_count_is_not_submitted(
    asking: AskingHome, redis: "Redis", person: Person, message: str
) -> None:
    """The queue stays as it is."""
    asked = asking.ask(redis, now())
    async with opened(asking) as inbox:
        if not message:  # not a stranger, but what is asked is not for this person any more
            asking.set_people(person)
            message = "the policy does not let that person decide this"
        with pytest.raises(ApprovalError, match=message):
            await inbox.submit(person.decide(asked, at=now()))
    assert redis.xlen(keynames.CONTROL) == 0


async def test_what_is_settled_cannot_be_approved_but_an_approval_can_be_taken_back(
    asking: AskingHome, redis: "Redis"
) -> None:
    """A denial of what is denied is refused as well."""
    asked = asking.ask(redis, now())
    async with opened(asking) as inbox:
        await inbox.submit(ALICE.decide(asked, at=now()))
        with pytest.raises(ApprovalError, match="cannot be decided any more: it is approved"):
            await inbox.submit(BOB.decide(asked, at=now()))
        assert (await inbox.submit(BOB.decide(asked, "deny", at=now()))).state == "denied"
        with pytest.raises(ApprovalError, match="it is denied"):
            await inbox.submit(ALICE.decide(asked, "deny", at=now()))


async def test_what_was_revoked_need_not_be_decided(asking: AskingHome, redis: "Redis") -> None:
    """It is void for good, as for workers; what the run asks after it was reinstated is not."""
    at, settings = now() - 1000, asking.settings
    gone = asking.ask(redis, at, run_id="gone")
    approved = asking.ask(redis, at + 1, run_id="approved")
    put_decision(redis, ALICE.decide(approved, at=at + 2))
    asking.ask(redis, at + 3, run_id="waits")
    async with opened(asking) as inbox:
        for run in ("gone", "approved"):
            await revoke(settings, "run", f"claude/{run}", reason="leaked", by="olivia")
        await inbox.refresh()
        assert states(inbox) == [("waits", "waiting", 1), ("approved", "approved", 0), ("gone", "void", 0)]
        with pytest.raises(ApprovalError, match="void"):
            inbox.check(inbox.find(gone.approval_id), "approve")
        await reinstate(settings, "run", "claude/gone", reason="was fine", by="olivia")
        asking.ask(redis, now() + 1, run_id="gone")
        await inbox.refresh()
        assert states(inbox)[0] == ("gone", "waiting", 1)
        assert states(inbox)[-1] == ("gone", "void", 0)
    async with opened(asking) as inbox:  # everything is read anew
        assert [state for _, state, _ in states(inbox)] == ["waiting", "waiting", "approved", "void"]
    (settings.keys_dir / PUBLIC_CONTROL).unlink()
    (settings.keys_dir / CONTROL).unlink()
    async with opened(asking) as inbox:  # nobody can tell what was revoked
        assert [state for _, state, _ in states(inbox)] == ["waiting", "waiting", "approved", "waiting"]


async def test_what_was_asked_on_behalf_of_a_run_need_not_be_decided_once_the_asker_is_revoked(
    asking: AskingHome, redis: "Redis"
) -> None:
    """The proxy's question is void, for people as for workers; the run's own is not."""
    at = now() - 1000
    asking.ask(redis, at, deliver="proxy", actor="egress", actor_key=bytes(32), run_id="by a proxy")
    asking.ask(redis, at + 1, run_id="itself")
    async with opened(asking) as inbox:
        await revoke(asking.settings, "agent", "egress", reason="leaked", by="olivia")
        await inbox.refresh()
        assert states(inbox) == [("itself", "waiting", 1), ("by a proxy", "void", 0)]


async def test_a_request_is_found_by_the_beginning_of_its_id(asking: AskingHome, redis: "Redis") -> None:
    """If no other begins alike."""
    asked = [asking.ask(redis, now() + n) for n in range(17)]
    async with opened(asking) as inbox:
        assert inbox.find(asked[0].approval_id).request == asked[0]
        with pytest.raises(ApprovalError, match="there is no approval 'zz'"):
            inbox.find("zz")
        with pytest.raises(ApprovalError, match="there is no approval ''"):
            inbox.find("")
        shared = next(c for c in "0123456789abcdef" if sum(a.approval_id[0] == c for a in asked) > 1)
        with pytest.raises(ApprovalError, match=f"approvals begin with '{shared}'"):
            inbox.find(shared)


async def test_watching_yields_what_there_is_and_then_what_changes(asking: AskingHome, redis: "Redis") -> None:
    """A new request, a decision, and the end of the time to decide."""
    clock = {"shift": 0}
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        rules = CurrentRules(asking.settings.config_dir)
        async with open_inbox(asking.settings, rules, lambda: now() + clock["shift"]) as inbox:
            async for items in inbox.watch():
                seen.extend((item.request.run_id, item.state) for item in items)

    asking.ask(redis, now(), run_id="first")
    task = asyncio.create_task(watch())
    await until(lambda: seen == [("first", "waiting")])
    second = asking.ask(redis, now(), run_id="second")
    await until(lambda: seen[1:] == [("second", "waiting")])
    put_decision(redis, ALICE.decide(second, "deny", at=now()))
    await until(lambda: seen[2:] == [("second", "denied")])
    clock["shift"] = 11 * MINUTE
    await until(lambda: seen[3:] == [("first", "expired")])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_many_requests_are_read_before_the_decisions_on_them(
    asking: AskingHome, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision is not refused because its request stands behind many others."""
    monkeypatch.setattr(inbox_module, "_COUNT", 3)
    asked = [asking.ask(redis, now() + n) for n in range(8)]
    put_decision(redis, ALICE.decide(asked[-1], at=now()))
    async with opened(asking) as inbox:
        assert [state for _, state, _ in states(inbox)] == ["approved"] + ["waiting"] * 7
        assert not inbox.ignored


async def test_a_queue_that_forgets_loses_nothing_that_was_read(asking: AskingHome, redis: "Redis") -> None:
    """And goes on with what is asked afterwards."""
    first = asking.ask(redis, now())
    async with opened(asking) as inbox:
        redis.delete(keynames.APPROVALS, keynames.CONTROL)
        second = asking.ask(redis, now() + 1)
        await inbox.refresh()
        assert [item.request for item in inbox.items()] == [second, first]
        assert (await inbox.submit(ALICE.decide(first, at=now()))).state == "approved"


async def test_a_queue_that_is_away_is_an_error_for_people(asking: AskingHome) -> None:
    """Reading and submitting alike."""
    settings = asking.settings.model_copy(update={"redis_url": "unix:///nowhere/valkey.sock"})
    with pytest.raises(QueueError, match="the queue cannot be read"):
        async with open_inbox(settings, CurrentRules(settings.config_dir), now):
            pass


async def test_a_decision_that_the_queue_does_not_take_did_not_happen(asking: AskingHome, redis: "Redis") -> None:
    """It can be made again."""
    asked = asking.ask(redis, now())
    async with opened(asking) as inbox:
        redis.set(keynames.CONTROL, "not a stream")
        with pytest.raises(QueueError, match="does not take the decision"):
            await inbox.submit(ALICE.decide(asked, at=now()))
        assert inbox.items()[0].state == "waiting"
        redis.delete(keynames.CONTROL)
        assert isinstance(await inbox.submit(ALICE.decide(asked, at=now())), Item)


async def test_the_inbox_needs_no_secret_key_of_the_broker(asking: AskingHome, redis: "Redis") -> None:
    """Only the public half of its identity, which init writes, and the queue's."""
    asking.ask(redis, now())
    (asking.settings.keys_dir / "identity.key").unlink()
    async with opened(asking) as inbox:
        assert len(inbox.items()) == 1


async def test_without_the_public_half_there_is_a_hint(asking: AskingHome) -> None:
    """An older installation has none; a command writes it."""
    keys_dir = asking.settings.keys_dir
    (keys_dir / PUBLIC_IDENTITY).unlink()
    with pytest.raises(SetupError) as caught:
        load_public_identity(keys_dir)
    assert caught.value.hint == "`secret-broker keys show` writes it"
    assert write_public_identity(keys_dir) == load_public_identity(keys_dir)
    assert load_public_identity(keys_dir) == load_broker_keys(keys_dir).identity_public
    (keys_dir / PUBLIC_IDENTITY).write_bytes(b"SECRET-BROKER-KEY-1:" + b"A" * 43)
    with pytest.raises(SetupError, match="does not hold the public half"):
        load_public_identity(keys_dir)
    write_public_identity(keys_dir)
    assert load_public_identity(keys_dir) == load_broker_keys(keys_dir).identity_public


def test_rules_follow_the_files_and_outlive_a_mistake(home: Home) -> None:
    """Files that are not valid change nothing, as in a worker."""
    asking = AskingHome(home.settings)
    asking.set_people(ALICE)
    rules = CurrentRules(home.settings.config_dir)
    assert set(rules().approvers.people) == {"alice"}
    asking.set_people(ALICE, BOB)
    assert set(rules().approvers.people) == {"alice", "bob"}
    (home.settings.config_dir / "approvers.yaml").write_text("approvers: nobody")
    assert set(rules().approvers.people) == {"alice", "bob"}
    with pytest.raises(ConfigError):
        CurrentRules(home.settings.config_dir)
