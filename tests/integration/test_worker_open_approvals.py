"""How many approvals a run may have waiting, whole: several real workers at once, on a real queue."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from broker_home import ENV_FILES, Home, Processes, server_of
from desk_workbench import until
from people_home import ALICE, BOB, approvers, asked, decide, refusal

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted
from agent_sdk.wire import keynames
from broker_worker.people.revoking import reinstate, revoke
from broker_worker.queue.embedded import EmbeddedServer

POLICY = """
    limits:
      agent: {rate: 100000/s, burst: 100000}
      run: {rate: 100000/s, burst: 100000}
      secret: {rate: 100000/s, burst: 100000}
    agents:
      claude:
        allow:
          - {secret: openai.api_key, approval: {approvers: [ops], ttl: 10m}}
"""
LIMIT = 5
GUARDED = "anthropic.api_key"
OF_THE_RUN = keynames.open_approvals("claude", "run-1")


@pytest.fixture
async def server(embedded_home: Home, processes: Processes) -> AsyncIterator[EmbeddedServer]:
    """A queue of its own, and a policy that asks people for everything."""
    (embedded_home.settings.config_dir / "approvers.yaml").write_text(approvers(alice=ALICE, bob=BOB))
    embedded_home.write(**{**ENV_FILES, "policy": POLICY})
    made = server_of(embedded_home)
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.stop)


async def outcome(claude: AsyncSecretBroker, purpose: str, name: str = "openai.api_key") -> str:
    """What a run is told that asks people for something new."""
    try:
        await claude.get(name, purpose=purpose, wait_for_approval=False)
    except NotGranted as error:
        return refusal(error)
    return "granted"


async def test_several_workers_together_open_exactly_the_limit(
    processes: Processes, embedded_home: Home, server: EmbeddedServer
) -> None:
    """However many ask at once, and whichever worker reads which request."""
    for name in ("worker-1", "worker-2", "worker-3"):
        await processes.start_worker(name)
    for run in range(8):
        credential = embedded_home.credential(run_id=f"run-{run}")
        async with contextlib.AsyncExitStack() as stack:
            claudes = [
                await stack.enter_async_context(AsyncSecretBroker(credential, clock=embedded_home.clock.now))
                for _ in range(4)
            ]
            asks = [outcome(claudes[each % 4], f"{run} {each}") for each in range(24)]
            told = Counter(await asyncio.gather(*asks))
        assert told == {"approval_pending": LIMIT, "rate_limited": 24 - LIMIT}
        assert len(await asked(embedded_home, LIMIT * (run + 1))) == LIMIT * (run + 1)
    assert len({r.worker for r in embedded_home.records("approval_requested")}) > 1


async def test_neither_a_crash_nor_a_queue_that_forgets_opens_more(
    processes: Processes, embedded_home: Home, server: EmbeddedServer
) -> None:
    """Workers that come after know from the queue, or from what people were asked, what waits."""
    first = await processes.start_worker("worker-1")
    async with embedded_home.client(run_id="run-1") as claude:
        assert [await outcome(claude, f"{n}") for n in range(LIMIT)] == ["approval_pending"] * LIMIT
        await asked(embedded_home, LIMIT)
        first.send_signal(signal.SIGKILL)
        await processes.ended(first)
        second = await processes.start_worker("worker-2")
        assert await outcome(claude, "one more") == "rate_limited"
        second.send_signal(signal.SIGKILL)
        await processes.ended(second)
        with embedded_home.redis() as redis:
            assert redis.zcard(OF_THE_RUN) == LIMIT
            redis.delete(OF_THE_RUN)
        await processes.start_worker("worker-3")
        assert await outcome(claude, "one more") == "rate_limited"
    assert len(await asked(embedded_home, LIMIT)) == LIMIT


async def test_what_people_can_see_is_counted_until_its_end(desk: Home) -> None:
    """By the queue itself, as soon as it stands there: a worker that has not read it yet opens no more by that."""
    async with desk.working(), desk.client(run_id="run-1") as claude:
        assert await outcome(claude, "deploy", GUARDED) == "approval_pending"
        (request,) = await asked(desk)
        with desk.redis() as redis:
            await until(lambda: redis.zscore(OF_THE_RUN, request.approval_id) == request.expires_at)


@pytest.mark.parametrize("end", ["approved", "denied", "expired", "void"])
async def test_what_no_longer_waits_makes_room_at_every_worker(desk: Home, end: str) -> None:
    """For as many as do not wait any more, whoever counts: one that was decided, or all whose time or run is over."""
    settled = 1 if end in ("approved", "denied") else LIMIT
    async with desk.working(), desk.working(name="worker-2"), desk.client(run_id="run-1") as claude:
        for number in range(LIMIT):
            assert await outcome(claude, f"{number}", GUARDED) == "approval_pending"
        for number in range(4):
            assert await outcome(claude, f"too many {number}", GUARDED) == "rate_limited"
        first = (await asked(desk, LIMIT))[0]
        if end == "expired":
            desk.clock.shift = 11 * 60_000
        elif end == "void":
            await revoke(desk.settings, "run", "claude/run-1", reason="leaked", by="olivia")
        else:
            decide(desk, first, verdict="approve" if end == "approved" else "deny")
        await until(lambda: [r.reason for r in desk.records("approval_settled")] == [end] * settled)
        if end == "void":
            await reinstate(desk.settings, "run", "claude/run-1", reason="was fine", by="olivia")
            await until(lambda: len(desk.records("reinstated")) == 2)
        with desk.redis() as redis:
            await until(lambda: redis.zcard(OF_THE_RUN) == LIMIT - settled)
        told = [await outcome(claude, f"again {number}", GUARDED) for number in range(2 * LIMIT)]
        assert Counter(told) == {"approval_pending": settled, "rate_limited": 2 * LIMIT - settled}
