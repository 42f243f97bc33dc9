"""Hundreds of agents: an idle one is heard at once when it rings, and soon when its ring is lost."""

from pathlib import Path

import pytest
from broker_home import Home
from desk_workbench import until

from broker_worker.worker import worker as worker_module

AGENTS = [f"agent-{number}" for number in range(500)]


@pytest.fixture
def crowd(tmp_path: Path, valkey_url: str) -> Home:
    """An installation with 500 agents."""
    lines = "".join(f"  {agent}: {{allow: [openai.api_key]}}\n" for agent in AGENTS)
    return Home(tmp_path / "home", valkey_url, policy=f"agents:\n{lines}")


async def test_an_idle_agent_that_rings_is_answered_without_the_sweep(
    crowd: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first message of an agent that nobody watched."""
    monkeypatch.setattr(worker_module, "SLICE_SECONDS", 3600.0)
    async with crowd.working():
        for agent in (AGENTS[0], AGENTS[250], AGENTS[499]):
            async with crowd.client(agent) as client:
                assert (await client.get("openai.api_key")).reveal() == "value of openai"


async def test_an_idle_agent_whose_ring_is_lost_is_answered_by_the_sweep(crowd: Home) -> None:
    """Nobody waits for a bell that never reached the worker."""
    run = crowd.run(AGENTS[333])
    async with crowd.working():
        with run.connect() as redis:
            redis.xadd(run.requests, {b"m": run.sealed("openai.api_key")})
            await until(lambda: crowd.records("access"))
            (reply,) = await until(lambda: run.answers(redis))
    assert reply.status == "ok"


async def test_a_doorbell_of_a_stranger_means_nothing(crowd: Home) -> None:
    """Whoever owns the queue can ring for anybody."""
    async with crowd.working() as process:
        with crowd.redis() as redis:
            for agent in ("nobody", "", "../../x", "*", "a}b"):
                redis.publish(f"sb:bell:{{{agent}}}", b"1")
            redis.publish("sb:bell:{\xff".encode("latin-1") + b"}", b"1")
        async with crowd.client(AGENTS[1]) as client:
            await client.get("openai.api_key")
        assert process.worker._hot_set.watched() == (AGENTS[1],)
