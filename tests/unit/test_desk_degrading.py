"""What the desk serves while a vault fails: nothing, or a value past its time where its entry says so, and it shows."""

from datetime import timedelta
from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Renew, Result
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.revocations import Revocation

MINUTE = 60_000
REGISTRY = """
    secrets:
      openai.api_key: {ref: "local://openai", ttl_seconds: 300, max_stale: 1h}
      anthropic.api_key: {ref: "local://anthropic", ttl_seconds: 300}
"""
OPENAI = "openai.api_key"
AWAY = ProviderError(FailureKind.UNREACHABLE, "away", retry_after=5_000)


@pytest.fixture
async def bench(tmp_path: Path) -> DeskBench:
    """A desk that has fetched both secrets once, and whose vault then went away; six minutes have passed."""
    made = DeskBench(tmp_path, registry=REGISTRY)
    run = made.run()
    await made.ask(run, OPENAI, "anthropic.api_key")
    fail(made, AWAY)
    later(made, 6 * MINUTE)
    return made


def fail(bench: DeskBench, error: ProviderError) -> None:
    """Have the vault answer every name with an error."""
    bench.vault.values = dict.fromkeys(bench.vault.values, error)


def later(bench: DeskBench, milliseconds: int) -> None:
    """Turn the clock, and do what a worker does meanwhile."""
    bench.clock.time += milliseconds
    bench.desk.tick()


def said(result: Result) -> tuple[object, ...]:
    """What a result says of its value."""
    return result.value, result.source, result.age_s, result.code


async def test_a_value_past_its_time_is_served_and_says_so(bench: DeskBench) -> None:
    """In the reply and in the audit, with its age; a secret whose entry allows none fails closed."""
    reply = await bench.ask(bench.run(), OPENAI, "anthropic.api_key")
    assert [said(result) for result in reply.results] == [
        (b"value of openai", "stale", 360, None),
        (None, None, None, Code.UNAVAILABLE),
    ]
    stale, closed = bench.sink.of("access")[-2:]
    assert (stale.outcome, stale.source, stale.age_s, stale.provider) == ("granted", "stale", 360, "local")
    assert (closed.outcome, closed.source, closed.age_s, closed.reason) == (
        "refused",
        None,
        None,
        "provider_unreachable",
    )
    assert reply.results[1].retry_after == 5_000


async def test_a_cached_value_tells_its_age_and_a_fetched_one_has_none(tmp_path: Path) -> None:
    """So an agent, and whoever reads the audit, sees how old what was served is."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    first = await bench.ask_one(run, OPENAI)
    later(bench, 12_345)
    second = await bench.ask_one(run, OPENAI)
    assert [(r.source, r.age_s) for r in (first, second)] == [("provider", None), ("cache", 12)]
    assert [(r.source, r.age_s) for r in bench.sink.of("access")] == [("provider", None), ("cache", 12)]


async def test_a_remembered_failure_does_not_hide_the_value(bench: DeskBench) -> None:
    """The second request within the second in which the failure is remembered is served as well, and asks nobody."""
    run = bench.run()
    await bench.ask(run, OPENAI)
    calls = len(bench.vault.calls)
    served = await bench.serve(bench.entry(run, None, OPENAI))
    assert served.waiting == []
    assert said(run.open(served.answers[0].envelope).results[0]) == (b"value of openai", "stale", 360, None)
    assert len(bench.vault.calls) == calls


async def test_it_ends_with_what_the_entry_allows(bench: DeskBench) -> None:
    """To the millisecond; afterwards the value is not even kept."""
    later(bench, 59 * MINUTE - 1)
    result = await bench.ask_one(bench.run(), OPENAI)
    assert result.source == "stale"
    assert result.expires_at == NOW + 65 * MINUTE
    later(bench, 1)
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.UNAVAILABLE)
    assert bench.cache.redact("value of openai") == "value of openai"


async def test_it_is_lent_for_no_longer_than_a_fresh_one_and_not_renewed(bench: DeskBench) -> None:
    """So that whoever has it asks again soon, and gets a fresh one once there is one."""
    run = bench.run()
    result = await bench.ask_one(run, OPENAI)
    assert result.expires_at == bench.clock.time + 5 * MINUTE
    assert result.lease is not None
    later(bench, 4 * MINUTE)
    reply = await bench.ask(run, body=Renew(result.lease))
    assert reply.results[0].expires_at == result.expires_at
    later(bench, MINUTE)
    assert (await bench.ask(run, body=Renew(result.lease))).results[0].code is Code.EXPIRED


@pytest.mark.parametrize(
    "kind",
    [
        FailureKind.TIMEOUT,
        FailureKind.UNREACHABLE,
        FailureKind.RATE_LIMITED,
        FailureKind.OVER_BUDGET,
        FailureKind.UNAUTHENTICATED,
        FailureKind.UNKNOWN,
    ],
)
async def test_a_vault_that_cannot_answer_has_not_said_no(bench: DeskBench, kind: FailureKind) -> None:
    """Whatever keeps it: the value stays served."""
    fail(bench, ProviderError(kind, "not now"))
    assert (await bench.ask_one(bench.run(), OPENAI)).source == "stale"


@pytest.mark.parametrize(
    "kind", [FailureKind.NOT_FOUND, FailureKind.FORBIDDEN, FailureKind.AMBIGUOUS, FailureKind.TOO_LARGE]
)
async def test_a_vault_that_says_no_ends_it_at_once(bench: DeskBench, kind: FailureKind) -> None:
    """Also for later: when it goes away again, the old value does not come back."""
    fail(bench, ProviderError(kind, "no"))
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.UNAVAILABLE)
    fail(bench, AWAY)
    later(bench, 11_000)
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.UNAVAILABLE)
    assert bench.cache.redact("value of openai") == "value of openai"


async def test_a_vault_that_is_back_gives_the_new_value(bench: DeskBench) -> None:
    """At the first request after the failure is forgotten."""
    await bench.ask(bench.run(), OPENAI)
    bench.vault.values["local://openai"] = b"new value"
    later(bench, 1_000)
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (b"new value", "provider", None, None)


@pytest.mark.parametrize("version", [None, "7"])
async def test_what_was_revoked_stays_revoked(bench: DeskBench, version: str | None) -> None:
    """The secret, or the very version that is cached."""
    order = Revocation(
        revocation_id="0" * 16,
        order="revoke",
        kind="secret",
        subject=OPENAI,
        at=bench.clock.time,
        version=version,
        reason="leaked",
        by="maria",
    )
    bench.affairs.revocations.apply(order)
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.REVOKED)


async def test_a_policy_that_changed_wins(bench: DeskBench) -> None:
    """Who may not have it any more does not get it stale either."""
    bench.load(registry=REGISTRY, policy="agents: {claude: {allow: [anthropic.api_key]}}")
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.DENIED)


async def test_an_entry_that_allows_less_now_gets_less(bench: DeskBench) -> None:
    """What counts is the file in force, not the one under which the value was fetched."""
    bench.load(registry=REGISTRY.replace("max_stale: 1h", "max_stale: 1m"))
    assert said(await bench.ask_one(bench.run(), OPENAI)) == (None, None, None, Code.UNAVAILABLE)


async def test_nothing_is_kept_past_its_time_for_an_entry_that_does_not_allow_it(bench: DeskBench) -> None:
    """The memory holds the one value that may still be served, and no other."""
    assert bench.cache.redact("value of anthropic") == "value of anthropic"
    assert bench.cache.redact("value of openai") != "value of openai"


async def test_a_run_that_ends_sooner_has_it_no_longer(bench: DeskBench) -> None:
    """The token's end cuts a stale loan as any other."""
    result = await bench.ask_one(bench.run(ttl=timedelta(seconds=30)), OPENAI)
    assert result.expires_at == bench.clock.time + 30_000
