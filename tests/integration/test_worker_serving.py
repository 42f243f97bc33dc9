"""The main path, whole: real clients with their own rights, a real server, a real worker, its audit on disk."""

import asyncio
from datetime import timedelta

import pytest
from broker_home import Home
from desk_workbench import until
from fake_vault import FakeVault

from agent_sdk.errors import Denied, Expired, InvalidRequest, RateLimited, SeveralRefused, Unavailable
from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from broker_worker.audit.stream import read_stream
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.queue.streams import REPLIES_KEPT

TIGHT = """
    limits:
      run: {rate: 1/h, burst: 4}
    agents:
      claude: {allow: [openai.api_key, anthropic.api_key]}
"""


async def test_an_agent_gets_what_it_may_have_and_nothing_else(home: Home) -> None:
    """One name, several, the list of names; every access is on disk with where its value came from."""
    vault = FakeVault()
    async with home.working(vault), home.client() as claude, home.client("codex") as codex:
        first = await claude.get("openai.api_key", purpose="summarise")
        again = await codex.get("openai.api_key")
        both = await claude.get_many(["openai.api_key", "anthropic.api_key"])
        assert (first.reveal(), first.source, again.source) == ("value of openai", "provider", "cache")
        assert [secret.reveal() for secret in both.values()] == ["value of openai", "value of anthropic"]
        assert await codex.list_names() == ("github.read_token", "openai.api_key")
        for name in ("github.read_token", "no.such.name"):
            with pytest.raises(Denied):
                await claude.get(name)
    shown = [(r.agent_id, r.secret_name, r.outcome, r.source) for r in home.records("access")]
    assert shown == [
        ("claude", "openai.api_key", "granted", "provider"),
        ("codex", "openai.api_key", "granted", "cache"),
        ("claude", "openai.api_key", "granted", "cache"),
        ("claude", "anthropic.api_key", "granted", "provider"),
        ("codex", None, "granted", None),
        ("claude", "github.read_token", "refused", None),
        ("claude", "no.such.name", "refused", None),
    ]
    assert vault.calls == [("local://openai",), ("local://anthropic",)]
    home.check_audit()


async def test_a_request_that_is_partly_granted(home: Home) -> None:
    """All or nothing by default; on request both parts."""
    async with home.working(), home.client() as claude:
        names = ["openai.api_key", "github.read_token"]
        with pytest.raises(Denied, match=r"github\.read_token"):
            await claude.get_many(names)
        resolution = await claude.get_many(names, partial=True)
        assert list(resolution.secrets) == ["openai.api_key"]
        assert [(r.name, r.code) for r in resolution.refusals] == [("github.read_token", Code.DENIED)]


async def test_one_fetch_however_many_ask(home: Home) -> None:
    """Many runs ask for one cold secret at once: the vault is asked once, and everybody is answered."""
    vault = FakeVault()
    vault.gate = asyncio.Event()
    async with home.working(vault) as process, home.client() as claude, home.client("codex") as codex:
        asks = [asyncio.create_task(client.get("openai.api_key")) for client in (claude, codex) for _ in range(40)]
        await until(lambda: len(process.fetches) == 80)
        vault.gate.set()
        assert {secret.reveal() for secret in await asyncio.gather(*asks)} == {"value of openai"}
    assert vault.calls == [("local://openai",)]
    assert len(home.records("access")) == 80


async def test_what_is_cached_is_answered_while_a_vault_hangs(home: Home) -> None:
    """Cold names wait, warm ones do not, whoever asks."""
    vault = FakeVault()
    async with home.working(vault), home.client() as claude:
        await claude.get("openai.api_key")
        vault.gate = asyncio.Event()
        cold = asyncio.create_task(claude.get("anthropic.api_key"))
        await until(lambda: len(vault.calls) == 2)
        for _ in range(20):
            assert (await claude.get("openai.api_key")).source == "cache"
        assert not cold.done()
        vault.gate.set()
        assert (await cold).reveal() == "value of anthropic"


async def test_a_vault_that_hangs_ends_with_the_deadline_and_releases_nothing_late(home: Home) -> None:
    """The agent learns of it in its own time; the late value stays inside."""
    vault = FakeVault()
    vault.gate = asyncio.Event()
    async with home.working(vault), home.client() as claude:
        with pytest.raises(Unavailable):
            await claude.get("openai.api_key", timeout=0.3)
        await until(lambda: home.records("request_refused"))
        vault.gate.set()
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    assert [r.reason for r in home.records("request_refused")] == ["expired_while_waiting"]
    assert [r.outcome for r in home.records("access")] == ["granted"]


async def test_a_vault_that_fails_costs_its_own_names_only(home: Home) -> None:
    """Another vault's names are granted in the same request; the worker lives on."""
    registry = """
        secrets: {openai.api_key: "local://openai", anthropic.api_key: "env://ANTHROPIC"}
    """
    home.write(registry=registry, broker="providers: [{type: local}, {type: env}]")
    vault, env = FakeVault(), FakeVault({"env://ANTHROPIC": b"from env"}, name="env")
    for failure in (ProviderError(FailureKind.UNREACHABLE, "down"), RuntimeError("a defect"), KeyError("x")):
        vault.failure = failure
        async with home.working(vault, others={"env": env}), home.client() as claude:
            found = await claude.get_many(["openai.api_key", "anthropic.api_key"], partial=True)
            assert found.secrets["anthropic.api_key"].reveal() == "from env"
            assert [(r.name, r.code) for r in found.refusals] == [("openai.api_key", Code.UNAVAILABLE)]


async def test_a_limit_says_truly_when_to_come_back(home: Home) -> None:
    """Every name counts; the time is that of the shared state on the queue."""
    home.write(policy=TIGHT)
    async with home.working(), home.client() as claude, home.client() as another_run:
        for _ in range(4):
            await claude.get("openai.api_key")
        with pytest.raises(RateLimited) as caught:
            await claude.get("openai.api_key")
        assert caught.value.retry_after == pytest.approx(3600, abs=10)
        assert (await another_run.get("openai.api_key")).reveal()
        many = await asyncio.gather(*(claude.get("openai.api_key") for _ in range(200)), return_exceptions=True)
        assert {type(error) for error in many} == {RateLimited}
    refused = home.records("request_refused")
    assert sum(record.count or 1 for record in refused) == 201
    assert len(refused) == 2


async def test_more_names_than_a_burst_are_too_large(home: Home) -> None:
    """Waiting would not help."""
    home.write(policy=TIGHT)
    async with home.working(), home.client() as claude:
        with pytest.raises(InvalidRequest) as caught:
            await claude.get_many([f"n{number}" for number in range(5)])
        assert caught.value.code == Code.TOO_LARGE


async def test_a_token_that_ends_ends_its_values_and_its_service(home: Home) -> None:
    """Also for a run that is well known."""
    async with home.working(), home.client(ttl=timedelta(seconds=60)) as claude:
        secret, ends = await claude.get("openai.api_key"), claude._exchange._expires_at
        assert secret.expires_at is not None
        assert secret.expires_at.timestamp() * 1000 == ends
        home.clock.shift = 95_000
        claude._exchange._expires_at += 1000_000  # a client that does not look at its own token
        with pytest.raises(Expired) as caught:
            await claude.get("openai.api_key")
        assert caught.value.code == Code.EXPIRED


async def test_agents_are_answered_after_the_clock_was_set_back(home: Home) -> None:
    """A host that starts with a clock an hour ahead: what certified its answers until then is of the future now."""
    async with home.working() as process:
        before = process.desk.session
        home.clock.shift = -3_600_000
        await until(lambda: process.desk.session is not before)
        async with home.client() as claude:
            assert (await claude.get("openai.api_key")).reveal() == "value of openai"


async def test_scope_purpose_runs_and_not_after_narrow(home: Home) -> None:
    """What the token and the entry say holds end to end."""
    home.write(
        policy="""
        agents:
          claude:
            allow:
              - {secret: openai.api_key, purpose: required, runs: [nightly-*], not_after: 2099-01-01}
              - anthropic.api_key
        """
    )
    async with (
        home.working(),
        home.client(run_id="nightly-1") as nightly,
        home.client(run_id="daily-1") as daily,
        home.client(run_id="nightly-2", scope=["openai.*"]) as narrow,
    ):
        assert (await nightly.get("openai.api_key", purpose="report")).reveal() == "value of openai"
        assert (await narrow.get("openai.api_key", purpose="report")).reveal() == "value of openai"
        for client, name, purpose in (
            (nightly, "openai.api_key", ""),
            (daily, "openai.api_key", "report"),
            (narrow, "anthropic.api_key", ""),
        ):
            with pytest.raises(Denied):
                await client.get(name, purpose=purpose)
    reasons = [record.reason for record in home.records("access") if record.outcome == "refused"]
    assert reasons == ["purpose_required", "run_not_covered", "out_of_scope"]


async def test_many_runs_with_many_requests_in_flight_are_all_answered(home: Home) -> None:
    """More than a batch, from runs that nobody knew a moment ago."""
    home.write(
        policy="""
        limits: {agent: {rate: 100000/s, burst: 100000}, run: {rate: 100000/s, burst: 100000}}
        agents: {claude: {allow: [openai.api_key]}, codex: {allow: [openai.api_key]}}
        """
    )
    async with home.working():
        clients = [home.client(agent) for agent in ("claude", "codex") for _ in range(10)]
        for client in clients:
            await client.__aenter__()
        found = await asyncio.gather(*(client.get("openai.api_key") for client in clients for _ in range(30)))
        assert len(found) == 600
        for client in clients:
            await client.close()
        with home.redis() as redis:
            assert redis.xlen(keynames.requests("claude")) == 0
            assert redis.xpending(keynames.requests("claude"), keynames.GROUP)["pending"] == 0
    assert len(home.records("access")) == 600
    home.check_audit()


async def test_a_reply_stream_is_bounded_and_ends_by_itself(home: Home) -> None:
    """Nothing of a run stays on the queue for ever."""
    async with home.working(), home.client() as claude:
        await claude.get("openai.api_key")
        with home.redis() as redis:
            (stream,) = redis.scan_iter("sb:rep:{claude}:*")
            assert 0 < redis.pttl(stream) <= 20 * 60 * 1000
            assert redis.xlen(stream) <= REPLIES_KEPT


async def test_several_refusals_are_each_named(home: Home) -> None:
    """The error has a code for every name."""
    vault = FakeVault()
    vault.values["local://openai"] = ProviderError(FailureKind.TIMEOUT, "slow", retry_after=1500)
    async with home.working(vault), home.client() as claude:
        with pytest.raises(SeveralRefused) as caught:
            await claude.get_many(["openai.api_key", "github.read_token"])
        assert [(r.code, r.retry_after) for r in caught.value.refusals] == [
            (Code.UNAVAILABLE, 1.5),
            (Code.DENIED, None),
        ]


async def test_the_audit_reaches_its_stream(home: Home) -> None:
    """What is on disk is there for consumers, in order and with its ids."""
    async with home.working(publishing=True) as process, home.client() as claude:
        await claude.get("openai.api_key")
        await until(lambda: process.publisher.is_caught_up)
        with home.redis() as redis:
            published = [stated for stated, _ in read_stream(redis)]
    on_disk = [record.event_id for record in home.records()]
    assert set(on_disk) <= set(published)
