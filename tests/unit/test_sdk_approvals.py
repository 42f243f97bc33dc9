"""The client waits for people, asks again when they have decided, and never takes a notice for a decision."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from agent_sdk import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalPending,
    ClientClosed,
    Code,
    Denied,
    Expired,
    Notice,
    RateLimited,
    Revoked,
    Secret,
    SeveralRefused,
    Unavailable,
    approvals,
)
from agent_sdk.testing import FakeApproval, FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker

LONG = 45.0


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": "value-b", "free": "value-f"}, needs_approval={"a.key", "b.key"})


@pytest.fixture
async def client(desk: FakeDesk) -> AsyncIterator[FakeAsyncSecretBroker]:
    async with FakeAsyncSecretBroker(desk=desk) as client:
        yield client


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds without notices takes milliseconds."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "SHORT_PAUSE"):
        monkeypatch.setattr(approvals, name, 0.005)


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.002)


async def asking(desk: FakeDesk, call: Awaitable[Secret], count: int = 1) -> "asyncio.Task[Secret]":
    """Start a call, and go on once people were asked."""
    task = asyncio.ensure_future(call)
    await until(lambda: len(desk.approvals) == count)
    return task


def asked(desk: FakeDesk) -> list[tuple[str, ...]]:
    return [request.names for request in desk.requests]


class TestWaiting:
    """With a notice."""

    async def test_an_approved_secret_comes_by_a_second_request(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The caller waits in one call; what was asked the second time is what was asked the first time."""
        task = await asking(desk, client.get("a.key", purpose="deploy", ttl=60))
        desk.approve()
        assert (await task).reveal() == "value-a"
        assert [(r.names, r.purpose, r.ttl) for r in desk.requests] == [(("a.key",), "deploy", 60)] * 2

    async def test_a_denial_and_an_end_without_decision_are_told_apart(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Each has its exception, which names the approval."""
        for decide, expected in ((desk.deny, ApprovalDenied), (desk.expire, ApprovalExpired)):
            task = await asking(desk, client.get("a.key", purpose=expected.__name__), len(desk.approvals) + 1)
            decide()
            with pytest.raises(expected) as caught:
                await task
            assert caught.value.refusals[0].approval == desk.approvals[-1].approval_id

    async def test_nothing_of_the_window_is_held_while_people_think(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Other requests go on."""
        task = await asking(desk, client.get("a.key"))
        await until(lambda: not client._exchange._pending)
        assert (await client.get("free")).reveal() == "value-f"
        desk.approve()
        await task

    async def test_at_the_timeout_the_approval_and_the_time_left_for_it_are_named(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The caller can look it up, and come back."""
        with pytest.raises(ApprovalPending) as caught:
            await client.get("a.key", timeout=0.05)
        approval = desk.approvals[0].approval_id
        (refusal,) = caught.value.refusals
        assert (refusal.code, refusal.approval) == (Code.APPROVAL_PENDING, approval)
        assert caught.value.retry_after == pytest.approx(600, abs=5)
        assert str(caught.value) == (
            f"a.key: waiting for a human's approval ({approval}), possible for 600 s more; ask again later"
        )
        desk.approve()
        assert (await client.get("a.key")).reveal() == "value-a"

    async def test_who_does_not_want_to_wait_is_told_at_once(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """One request, one answer."""
        with pytest.raises(ApprovalPending):
            await client.get("a.key", wait_for_approval=False)
        resolution = await client.get_many(["a.key", "free"], wait_for_approval=False, partial=True)
        assert [(r.name, r.code) for r in resolution.refusals] == [("a.key", Code.APPROVAL_PENDING)]
        assert resolution.secrets["free"].reveal() == "value-f"
        assert len(desk.requests) == 2

    async def test_an_approval_that_is_settled_before_the_caller_waits_is_not_missed(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The notice can arrive in one go with the answer that says that there is something to wait for."""
        desk.person = lambda approval: "approve"
        assert (await client.get("a.key", timeout=4)).reveal() == "value-a"
        assert len(desk.requests) == 2

    async def test_a_revoked_run_does_not_wait_any_longer(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """The notice has it ask, and the answer ends it."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        desk.revoke_runs()
        with pytest.raises(Revoked):
            await asyncio.wait_for(task, 4.5)

    async def test_close_ends_the_wait(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """As it ends any request."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        await client.close()
        with pytest.raises(ClientClosed):
            await asyncio.wait_for(task, 4.5)

    async def test_a_cancelled_wait_leaves_nothing_behind(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """No future waits for a notice that nobody wants."""
        task = await asking(desk, client.get("a.key"))
        await until(lambda: client._exchange.settled._waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client._exchange.settled._waiting == {}

    def test_the_blocking_client_waits_too(self) -> None:
        """With a person who decides by what the agent says that it is for."""

        def person(approval: FakeApproval) -> str | None:
            return "approve" if approval.purpose == "deploy" else "deny"

        with FakeSecretBroker({"a": "x"}, needs_approval=["a"], person=person) as broker:  # type: ignore[arg-type]  # either word
            assert broker.get("a", purpose="deploy").reveal() == "x"
            assert broker.get_many(["a"], purpose="deploy")["a"].reveal() == "x"
            with pytest.raises(ApprovalDenied):
                broker.get("a", purpose="curiosity")


class TestSeveralNames:
    """One request for names that need an approval and names that do not."""

    async def test_what_was_granted_is_kept_and_only_the_rest_is_asked_for_again(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Names of one approval together, in the order of the request."""
        desk.person = lambda approval: "approve"
        secrets = await client.get_many(["b.key", "free", "a.key"])
        assert [(name, secret.reveal()) for name, secret in secrets.items()] == [
            ("b.key", "value-b"),
            ("free", "value-f"),
            ("a.key", "value-a"),
        ]
        assert asked(desk) == [("b.key", "free", "a.key"), ("b.key", "a.key")]

    async def test_a_denial_ends_an_all_or_nothing_request(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """A name that is refused anyway makes waiting for the others useless."""
        with pytest.raises(SeveralRefused, match=r"not released: a\.key \(approval_pending\), no\.key \(denied\)"):
            await client.get_many(["a.key", "no.key"])
        assert len(desk.requests) == 1

    async def test_a_partial_request_waits_in_spite_of_other_refusals(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """Both are in the result, the refused names in the order asked."""
        desk.person = lambda approval: "deny"
        resolution = await client.get_many(["no.key", "a.key", "free"], partial=True)
        assert [(r.name, r.code) for r in resolution.refusals] == [
            ("no.key", Code.DENIED),
            ("a.key", Code.APPROVAL_DENIED),
        ]
        assert set(resolution.secrets) == {"free"}

    async def test_a_partial_request_returns_what_still_waits_at_its_timeout(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """It raises nothing: that is for the caller to judge."""
        resolution = await client.get_many(["a.key", "free"], partial=True, timeout=0.05)
        assert resolution.refusals[0].code == Code.APPROVAL_PENDING
        assert resolution.refusals[0].approval == desk.approvals[0].approval_id


@pytest.mark.usefixtures("short_pauses")
class TestWithoutNotices:
    """The queue may lose a notice, and the broker may be away for a while."""

    async def test_a_lost_notice_costs_time_and_nothing_else(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The client asks by itself every now and then."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        desk.approve(notify=False)
        assert (await task).reveal() == "value-a"

    async def test_pauses_grow(self, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the first to the longest, each twice as long; they are what the agent's own rate limit pays for."""
        pauses: list[float] = []

        async def wait(approvals: frozenset[str], heard: frozenset[str], seconds: float) -> frozenset[str]:
            pauses.append(seconds)
            return frozenset()

        monkeypatch.setattr(approvals, "FIRST_PAUSE", 5.0)
        monkeypatch.setattr(approvals, "LONGEST_PAUSE", 30.0)
        async with FakeAsyncSecretBroker(desk=desk) as client:
            monkeypatch.setattr(client._exchange.settled, "wait", wait)
            task = await asking(desk, client.get("a.key", timeout=600))
            await until(lambda: len(pauses) > 5)
            desk.approve(notify=False)
            await task
        assert pauses[:6] == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]

    async def test_a_notice_that_is_ahead_of_the_workers_is_followed_up_shortly(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is no decision: while the broker says that people think, the client waits, and does not ask in a loop."""
        monkeypatch.setattr(approvals, "SHORT_PAUSE", 0.05)
        task = await asking(desk, client.get("a.key", timeout=LONG))
        approval = desk.approvals[0]
        desk.notify(Notice("approval_settled", desk.clock(), approval=bytes.fromhex(approval.approval_id)))
        await until(lambda: len(desk.requests) > 2)
        assert not task.done()
        desk.approve(notify=False)
        await task

    @pytest.mark.parametrize("trouble", ["silent", "unavailable", "rate_limited"])
    async def test_trouble_on_the_way_does_not_end_the_wait(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk, trouble: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """People who approve after minutes do not have to do it again because the vault was away for a moment."""
        monkeypatch.setattr(approvals, "REQUEST_SECONDS", 0.02)
        task = await asking(desk, client.get("a.key", timeout=LONG))
        if trouble == "silent":
            desk.silent = True
        elif trouble == "unavailable":
            desk.unavailable.add("a.key")
        else:
            desk.rate_limited["a.key"] = 0.01
        count = len(desk.requests)
        await until(lambda: len(desk.requests) > count + 2)
        desk.approve(notify=False)
        desk.silent = False
        desk.unavailable.clear()
        desk.rate_limited.clear()
        assert (await task).reveal() == "value-a"

    async def test_the_last_answer_is_what_the_caller_is_told(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """A limit that stands in the way at the timeout is not called a missing approval, but still names it."""
        desk.person = lambda approval: desk.rate_limited.update({"a.key": 0.01})
        with pytest.raises(RateLimited) as caught:
            await client.get("a.key", timeout=0.3)
        assert caught.value.refusals[0].approval == desk.approvals[0].approval_id

    async def test_an_outage_until_the_timeout_is_still_an_approval_that_is_missing(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """What the broker last said holds."""
        task = await asking(desk, client.get("a.key", timeout=0.1))
        desk.silent = True
        with pytest.raises(ApprovalPending):
            await task

    async def test_what_is_refused_for_good_ends_the_wait(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """A policy that was changed meanwhile is not waited out."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        desk.refused["a.key"] = Code.DENIED
        with pytest.raises(Denied):
            await task

    async def test_the_end_of_the_run_ends_the_wait(self, client: FakeAsyncSecretBroker, desk: FakeDesk) -> None:
        """A token that is over is not waited with."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        desk.advance(timedelta(hours=2))
        with pytest.raises(Expired, match="this run's token is over"):
            await task

    async def test_a_new_approval_in_place_of_one_that_was_voided_is_waited_for(
        self, client: FakeAsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """A changed policy asks people anew; the caller goes on waiting."""
        task = await asking(desk, client.get("a.key", timeout=LONG))
        desk.approvals[0].state = "used"
        await until(lambda: len(desk.approvals) == 2)
        desk.approve()
        assert (await task).reveal() == "value-a"


class TestLongTimeouts:
    """A wait of minutes is made of requests that are good for seconds."""

    async def test_no_request_is_good_for_longer_than_its_own_time(
        self, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the queue holds back is worth nothing later, however long the caller waits."""
        monkeypatch.setattr("agent_sdk.client.REQUEST_SECONDS", 0.02)
        lives: list[int] = []
        async with FakeAsyncSecretBroker(desk=desk) as client:
            seal = client._exchange._channel.seal

            def sealing(request: object) -> bytes:
                lives.append(request.deadline - request.issued_at)  # type: ignore[attr-defined]  # a Request
                return seal(request)  # type: ignore[arg-type]  # a Request

            monkeypatch.setattr(client._exchange._channel, "seal", sealing)
            desk.silent = True
            with pytest.raises(Unavailable, match="no answer in time"):
                await client.get("free", timeout=0.1)
            task = asyncio.ensure_future(client.get("free", timeout=LONG))
            await until(lambda: len(lives) > 8)
            desk.silent = False
            assert (await task).reveal() == "value-f"
        assert max(lives) <= 20

    async def test_what_the_queue_refuses_is_not_tried_until_the_timeout(self, desk: FakeDesk) -> None:
        """A long timeout is patience with slowness, not with a closed door."""
        async with FakeAsyncSecretBroker(desk=desk) as client:
            desk.silent = True
            task = asyncio.ensure_future(client.get("free", timeout=600))
            await until(lambda: client._exchange._pending)
            client._exchange.refuse(list(client._exchange._pending), "the queue refused the request")
            with pytest.raises(Unavailable, match="the queue refused the request"):
                await asyncio.wait_for(task, 4.5)
