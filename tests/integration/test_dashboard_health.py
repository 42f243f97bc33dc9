"""The page of health: the queue, the workers, the vaults, the cache and the audit's chains."""

from collections.abc import AsyncIterator

import httpx
import pytest
from dashboard_house import NOW, House
from desk_workbench import write_files
from ledger_rows import HOUR, put
from redis.asyncio import Redis

from agent_sdk.wire import keynames
from broker_worker.dashboard.queue_state import read_queue
from broker_worker.files.keys import QUEUE, create_broker_keys, load_seed
from broker_worker.ledger.schema import CHAINS, FINDINGS
from broker_worker.queue.users import ensure_users

AGENTS = ("claude", "codex")


@pytest.fixture
async def queue(house: House, valkey_url: str) -> AsyncIterator["Redis"]:
    """A real server with the users of this house, and a connection that may do anything."""
    create_broker_keys(house.settings.keys_dir, NOW)
    house.settings = house.settings.model_copy(update={"redis_url": valkey_url})
    object.__setattr__(house.context, "settings", house.settings)
    write_files(house.settings.config_dir, policy="agents: {claude: {allow: []}, codex: {allow: []}}")
    await ensure_users(valkey_url, load_seed(house.settings.keys_dir / QUEUE), AGENTS)
    client = Redis.from_url(valkey_url)
    yield client
    await client.aclose()


async def ask(client: "Redis", agent: str, count: int) -> None:
    """Have an agent's stream with a group of workers hold that many requests."""
    await client.xgroup_create(keynames.requests(agent), keynames.GROUP, mkstream=True)
    for _ in range(count):
        await client.xadd(keynames.requests(agent), {keynames.MESSAGE_FIELD: b"x"})


def chain(house: House, **values: object) -> None:
    """Put in how far a worker's chain is projected."""
    standard = {"chain": "01" * 8, "worker": "worker-1", "next_sequence": 12, "updated_at": NOW}
    put(house, CHAINS, **(standard | values))


async def test_an_empty_ledger_without_a_queue_has_a_page(browser: httpx.AsyncClient) -> None:
    """Nothing is there yet, and the page says what is missing."""
    answer = await browser.get("/health")
    assert answer.status_code == 200
    assert "queue.key" in answer.text
    assert "heard of no worker" in answer.text


async def test_requests_that_wait_are_counted_per_agent(
    house: House, browser: httpx.AsyncClient, queue: "Redis"
) -> None:
    """What no worker took and what a worker did not finish are told apart."""
    await ask(queue, "claude", 5)
    await queue.xreadgroup(keynames.GROUP, "worker-1", {keynames.requests("claude"): ">"}, count=2)
    state = await read_queue(house.settings, AGENTS)
    assert state.fault == ""
    assert [(agent.agent_id, agent.waiting, agent.taken) for agent in state.agents] == [("claude", 3, 2)]
    text = (await browser.get("/health")).text
    assert ">claude</a>" in text
    assert "valkey" in text


async def test_a_stream_that_no_worker_reads_is_a_problem(house: House, queue: "Redis") -> None:
    """Requests without a consumer group wait for ever, so that stands first."""
    await ask(queue, "claude", 9)
    await queue.xadd(keynames.requests("codex"), {keynames.MESSAGE_FIELD: b"x"})
    state = await read_queue(house.settings, AGENTS)
    assert [(agent.agent_id, agent.problem) for agent in state.agents] == [
        ("codex", "no worker reads it"),
        ("claude", ""),
    ]


async def test_a_stream_that_is_something_else_is_a_problem(house: House, queue: "Redis") -> None:
    """Whoever owns the queue may put anything there; the page survives it."""
    await queue.set(keynames.requests("claude"), "not a stream")
    (agent,) = (await read_queue(house.settings, AGENTS)).agents
    assert agent.problem == "the stream is not readable"


async def test_readers_of_the_audit_show_how_far_behind_they_are(house: House, queue: "Redis") -> None:
    """The ledger's own group is among them."""
    await queue.xgroup_create(keynames.AUDIT, "ledger", mkstream=True)
    await queue.xadd(keynames.AUDIT, {"d": b"x"})
    (reader,) = (await read_queue(house.settings, AGENTS)).readers
    assert (reader.name, reader.waiting, reader.taken) == ("ledger", 1, 0)


async def test_a_queue_that_is_away_is_said_to_be(house: House, browser: httpx.AsyncClient, queue: "Redis") -> None:
    """The rest of the page is there all the same, without a password in it."""
    gone = house.settings.model_copy(update={"redis_url": f"unix://{house.folder}/gone.sock"})
    object.__setattr__(house.context, "settings", gone)
    chain(house)
    text = (await browser.get("/health")).text
    assert "cannot be asked" in text
    assert "worker-1" in text
    assert "console:" not in text


async def test_workers_are_running_silent_or_stopped(house: House, browser: httpx.AsyncClient) -> None:
    """Each as its last events say; a worker that started again runs."""
    chain(house)
    chain(house, chain="02" * 8, worker="worker-2", updated_at=NOW - HOUR)
    chain(house, chain="03" * 8, worker="worker-3")
    chain(house, chain="04" * 8, worker="worker-4")
    for worker, events in (("worker-3", ("started", "stopped")), ("worker-4", ("stopped", "started"))):
        for age, event in enumerate(reversed(events)):
            house.record(f"worker_{event}", at=NOW - 1000 - age, worker=worker)
    text = (await browser.get("/health")).text
    states = {}
    for row in text.split("<tr>"):
        for worker in ("worker-1", "worker-2", "worker-3", "worker-4"):
            if f">{worker}</td>" in row:
                states[worker] = next(word for word in ("running", "silent", "stopped") if word in row)
    assert states == {"worker-1": "running", "worker-2": "silent", "worker-3": "stopped", "worker-4": "running"}


async def test_what_an_operator_wrote_is_no_worker(house: House, browser: httpx.AsyncClient) -> None:
    """`secret-broker put` and rotations have a chain of their own, and no worker need be running for them."""
    chain(house, worker="operator")
    text = (await browser.get("/health")).text
    assert "heard of no worker" in text
    assert ">operator<" not in text


async def test_vault_failures_of_the_last_day_are_counted(house: House, browser: httpx.AsyncClient) -> None:
    """Per vault and reason; what is older is over."""
    for age in (1, 2, 30 * HOUR):
        house.record(at=NOW - age, outcome="refused", code="unavailable", provider="onepassword", reason="timeout")
    house.record(outcome="refused", code="denied", provider="onepassword", reason="no_grant")
    text = (await browser.get("/health")).text
    assert 'data-label="Times" class="number">2<' in text
    assert "no grant" not in text


async def test_the_cache_shows_its_share(house: House, browser: httpx.AsyncClient) -> None:
    """Three of four values came from the cache."""
    for source in ("cache", "cache", "cache", "provider"):
        house.record(outcome="granted", source=source)
    text = (await browser.get("/health")).text
    assert "75 %" in text
    assert "3 from the cache, 1 from a vault" in text


async def test_values_past_their_time_are_counted_by_themselves(house: House, browser: httpx.AsyncClient) -> None:
    """Only where there were some: they mean that a vault failed."""
    house.record(outcome="granted", source="cache")
    assert "past their time" not in (await browser.get("/health")).text
    for _ in range(2):
        house.record(outcome="granted", source="stale")
    assert "2 from the cache past their time, because a vault failed" in (await browser.get("/health")).text


async def test_findings_of_the_audit_are_shown(house: House, browser: httpx.AsyncClient) -> None:
    """What was wrong stands there with its place, as text."""
    chain(house)
    put(house, FINDINGS, at=NOW, fault="removed", chain="01" * 8, sequence=7, detail="<script>gone</script>")
    text = (await browser.get("/health")).text
    assert "1 finding" in text
    assert "&lt;script&gt;gone" in text
    assert "<script>gone" not in text


async def test_what_should_not_happen_often_is_summed_up(house: House, browser: httpx.AsyncClient) -> None:
    """A line that stands for many messages counts as many."""
    house.record("unauthenticated", agent_id="claude", outcome="refused", reason="bad_token", count=40)
    house.record("unauthenticated", agent_id="codex", outcome="refused", reason="bad_token", count=2)
    text = (await browser.get("/health")).text
    assert ">42<" in text
    assert "2 agents" in text
