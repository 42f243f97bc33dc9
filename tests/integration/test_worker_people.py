"""People in the loop, whole: a real client waits, a real worker asks, a signed decision arrives over the real queue."""

import asyncio
from datetime import timedelta

import pytest
from broker_home import Home
from desk_workbench import SECRETS, until
from people_home import BOB, MALLORY, approvers, asked, decide, furnish, refusal, waiting_for

from agent_sdk.errors import ApprovalDenied, ApprovalPending, NotGranted
from agent_sdk.wire import keynames
from broker_worker.worker import control_tail


async def test_a_client_that_waits_gets_the_value_when_a_person_approved(desk: Home) -> None:
    """Nothing else is held up meanwhile; the audit says who asked, who decided and what was released on it."""
    async with desk.working(), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        assert (request.names, request.purpose, request.asked_today) == (("anthropic.api_key",), "deploy", 0)
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
        assert not waits.done()
        decide(desk, request)
        assert (await waits).reveal() == "value of anthropic"
    events = [(r.event, r.outcome, r.approval_id, r.approver) for r in desk.records() if r.approval_id]
    assert events[0] == ("approval_requested", None, request.approval_id, "ops")
    assert ("approval_decided", "granted", request.approval_id, "alice") in events
    assert ("approval_settled", "granted", request.approval_id, "alice") in events
    assert events[-1] == ("access", "granted", request.approval_id, "alice")
    desk.check_audit()


async def test_a_caller_that_does_not_wait_is_told_at_once_and_may_come_back(desk: Home) -> None:
    """The same question again is the same approval, not another one."""
    async with desk.working(), desk.client() as claude:
        for _ in range(2):
            with pytest.raises(ApprovalPending) as caught:
                await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
        (request,) = await asked(desk)
        assert caught.value.refusals[0].approval == request.approval_id
        decide(desk, request)
        await until(lambda: desk.records("approval_settled"))
        secret = await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
        assert secret.reveal() == "value of anthropic"
        assert len(await asked(desk)) == 1


async def test_a_single_use_approval_serves_once(desk: Home) -> None:
    """The next question is a new one."""
    async with desk.working(), desk.client() as claude:
        waits = await waiting_for(claude)
        decide(desk, (await asked(desk))[0])
        await waits
        with pytest.raises(ApprovalPending):
            await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
        assert len(await asked(desk, 2)) == 2


@pytest.mark.parametrize("grant", ["run", "15m"])
async def test_a_longer_grant_serves_the_same_question_again(desk: Home, grant: str) -> None:
    """But not another purpose, and not another run."""
    furnish(desk, grant=grant)
    async with desk.working(), desk.client() as claude, desk.client() as other:
        waits = await waiting_for(claude)
        decide(desk, (await asked(desk))[0])
        await waits
        assert (await claude.get("anthropic.api_key", purpose="deploy")).reveal() == "value of anthropic"
        for client, purpose in ((claude, "something else"), (other, "deploy")):
            with pytest.raises(ApprovalPending):
                await client.get("anthropic.api_key", purpose=purpose, wait_for_approval=False)


async def test_a_denial_ends_the_wait(desk: Home) -> None:
    """The reason is in the audit."""
    async with desk.working(), desk.client() as claude:
        waits = await waiting_for(claude)
        decide(desk, (await asked(desk))[0], verdict="deny", reason="not on a Friday")
        with pytest.raises(ApprovalDenied):
            await waits
    (decided,) = desk.records("approval_decided")
    assert (decided.outcome, decided.approver, decided.reason) == ("refused", "alice", "not on a Friday")


async def test_two_people_must_approve_where_the_policy_says_so(desk: Home) -> None:
    """One person twice does not do."""
    furnish(desk, quorum=2)
    async with desk.working(), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        decide(desk, request)
        decide(desk, request, at=desk.clock.now() + 1)
        await until(lambda: desk.records("decision_refused"))
        assert not waits.done()
        decide(desk, request, "bob", BOB)
        assert (await waits).reveal() == "value of anthropic"
    assert [r.reason for r in desk.records("decision_refused")] == ["decided_already"]


async def test_what_nobody_may_decide_is_recorded_and_changes_nothing(desk: Home) -> None:
    """A forged signature, a stranger, a decision that comes too late, and bytes of anybody."""
    async with desk.working(), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        decide(desk, request, "alice", MALLORY)
        decide(desk, request, "mallory", MALLORY)
        decide(desk, request, at=request.expires_at)
        redis = desk.redis()
        redis.xadd(keynames.CONTROL, {"m": b"junk"})
        redis.close()
        wanted = {"bad_signature", "unknown_approver", "too_late", "malformed"}
        await until(lambda: wanted <= {r.reason for r in desk.records("decision_refused")})
        assert not waits.done()
        waits.cancel()
    assert [r for r in desk.records("access") if r.outcome == "granted"] == []


async def test_an_approver_who_was_removed_meanwhile_decides_nothing(desk: Home) -> None:
    """Also if the decision came before, as long as another one is missing."""
    furnish(desk, quorum=2)
    async with desk.working(reloading=True), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        decide(desk, request)
        await until(lambda: desk.records("approval_decided"))
        await asyncio.to_thread((desk.settings.config_dir / "approvers.yaml").write_text, approvers(bob=BOB))
        await until(lambda: desk.records("config_loaded"))
        decide(desk, request, "bob", BOB)
        await until(lambda: len(desk.records("approval_decided")) == 2)
        assert not waits.done()
        waits.cancel()


async def test_a_changed_policy_voids_what_waits(desk: Home) -> None:
    """The run is told, and asks under the new policy."""
    async with desk.working(reloading=True), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        furnish(desk, grant="run")
        second = (await asked(desk, 2))[1]
        decide(desk, request)
        await until(lambda: [r.reason for r in desk.records("approval_settled")] == ["void"])
        assert not waits.done()
        decide(desk, second)
        assert (await waits).reveal() == "value of anthropic"


async def test_a_worker_that_died_between_decision_and_release_loses_nothing(desk: Home) -> None:
    """The next one knows the request and the decision from the queue, and the use from the broker's own file."""
    async with desk.client() as claude:
        async with desk.working():
            waits = await waiting_for(claude, timeout=60)
            (request,) = await asked(desk)
        decide(desk, request)
        async with desk.working(name="worker-2"):
            assert (await waits).reveal() == "value of anthropic"
            with pytest.raises(ApprovalPending):
                await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)


async def test_a_run_cannot_ask_people_without_end(desk: Home) -> None:
    """Five wait; the sixth is refused until one of them is settled."""
    async with desk.working(), desk.client() as claude:
        for number in range(5):
            with pytest.raises(ApprovalPending):
                await claude.get("anthropic.api_key", purpose=f"number {number}", wait_for_approval=False)
        with pytest.raises(NotGranted) as caught:
            await claude.get("anthropic.api_key", purpose="number 5", wait_for_approval=False)
        assert refusal(caught.value) == "rate_limited"
        assert len(await asked(desk, 5)) == 5


async def test_people_are_asked_at_once(desk: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next look at what else is due: until then another worker would not count the question."""
    monkeypatch.setattr(control_tail, "POLL_SECONDS", 60.0)
    async with desk.working(), desk.client() as claude:
        await claude.get("openai.api_key")
        with pytest.raises(ApprovalPending):
            await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
        assert len(await asked(desk)) == 1


async def test_names_of_one_request_are_one_decision(desk: Home) -> None:
    """What needs nobody is granted at once."""
    entry = '{pattern: "anthropic.*", approval: {approvers: [ops]}}'
    registry = SECRETS + '      anthropic.admin_key: "local://github"\n'
    desk.write(policy=f"agents:\n  claude:\n    allow: [openai.api_key, {entry}]\n", registry=registry)
    async with desk.working(), desk.client() as claude:
        names = ["openai.api_key", "anthropic.api_key", "anthropic.admin_key"]
        waits = asyncio.create_task(claude.get_many(names, purpose="deploy"))
        (request,) = await asked(desk)
        assert request.names == ("anthropic.admin_key", "anthropic.api_key")
        decide(desk, request)
        assert {name: secret.reveal() for name, secret in (await waits).items()} == {
            "openai.api_key": "value of openai",
            "anthropic.api_key": "value of anthropic",
            "anthropic.admin_key": "gh",
        }


async def test_a_purpose_that_holds_a_value_is_not_shown_to_people(desk: Home) -> None:
    """It is refused: they would not see what they sign, and the queue's owner would see the value."""
    async with desk.working(), desk.client() as claude:
        value = (await claude.get("openai.api_key")).reveal()
        with pytest.raises(NotGranted) as caught:
            await claude.get("anthropic.api_key", purpose=f"with {value}", wait_for_approval=False)
        assert refusal(caught.value) == "denied"
        redis = desk.redis()
        assert redis.xlen(keynames.APPROVALS) == 0
        redis.close()


async def test_two_approvers_at_once_release_once(desk: Home) -> None:
    """Both decisions count, and the single use stays single, whichever of two workers answers."""
    async with desk.working(), desk.working(name="worker-2"), desk.client() as claude:
        waits = await waiting_for(claude)
        (request,) = await asked(desk)
        decide(desk, request)
        decide(desk, request, "bob", BOB)
        assert (await waits).reveal() == "value of anthropic"
        with pytest.raises(ApprovalPending):
            await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
    granted = [r for r in desk.records("access") if r.outcome == "granted"]
    assert [r.approver for r in granted] == ["alice,bob"]
    assert len(desk.records("approval_settled")) == 1


@pytest.mark.parametrize("step", [20 * 60_000, -20 * 60_000], ids=["forward", "back"])
async def test_a_clock_that_steps_releases_nothing_early_or_late(desk: Home, step: int) -> None:
    """Forward: the request is over, nobody's approval revives it. Back: a decision from the future does not count."""
    async with desk.working(), desk.client(ttl=timedelta(hours=2)) as claude:
        with pytest.raises(ApprovalPending):
            await claude.get("anthropic.api_key", purpose="deploy", wait_for_approval=False)
        (request,) = await asked(desk)
        before = desk.clock.now()
        desk.clock.shift = step
        decide(desk, request, at=before)
        if step > 0:
            await until(lambda: desk.records("approval_settled"))
            assert desk.records("approval_settled")[0].reason == "expired"
        else:
            await until(lambda: desk.records("decision_refused"))
            assert desk.records("decision_refused")[0].reason == "from_the_future"
    assert [r for r in desk.records("access") if r.outcome == "granted"] == []
