"""Calls that a proxy made with a secret, as it reports them: who may, what is recorded, and when."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench
from on_behalf_workbench import KEY, acting_desk, ask, shown
from people_desk import order, revoke

from agent_sdk.wire.audit import format_time
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Call, Report


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk with two agents that act for others."""
    return acting_desk(tmp_path)


def call(at: int, **fields: Any) -> Call:
    """A call that a proxy made."""
    given: dict[str, Any] = {"route": "openai", "name": KEY, "host": "api.openai.com", "method": "POST"}
    return Call(
        at, **{**given, "path": "/v1/chat/*", "status": 200, "sent": 10, "received": 20, "elapsed": 7, **fields}
    )


async def test_calls_are_recorded_as_the_proxy_tells_them(bench: DeskBench) -> None:
    """Each a line of its own, of the run that the proxy was shown; also late, and of a run that was revoked since."""
    run, proxy = bench.run("claude", ttl=timedelta(minutes=2)), bench.run("egress")
    calls = (call(NOW), call(NOW + 5, status=None, fault="upstream_timeout"))
    reply = await bench.ask(proxy, body=Report(shown(run), calls))
    assert reply.status == "ok"
    first, second = bench.sink.of("call")
    assert (first.agent_id, first.host, first.method, first.path, first.status) == (
        "claude",
        "api.openai.com",
        "POST",
        "/v1/chat/*",
        200,
    )
    assert (first.sent_bytes, first.received_bytes, first.elapsed_ms, first.outcome) == (10, 20, 7, "granted")
    assert (second.outcome, second.reason, second.status) == ("refused", "upstream_timeout", None)
    revoke(bench, order("run", f"claude/{run.credential.run_id}"))
    bench.clock.time += 2 * 60_000 + 45_000
    assert (await bench.ask(proxy, body=Report(shown(run), (call(NOW),)))).status == "ok"
    bench.clock.time += 10 * 60_000
    assert (await bench.ask(proxy, body=Report(shown(run), (call(NOW),)))).code == Code.EXPIRED


async def test_a_call_is_acknowledged_only_when_it_is_on_disk(bench: DeskBench) -> None:
    """A full disk says so."""
    bench.sink.is_full = True
    reply = await bench.ask(bench.run("egress"), body=Report(shown(bench.run("claude")), (call(NOW),)))
    assert reply.code == Code.AUDIT_UNAVAILABLE


async def test_nobody_reports_for_others_but_a_proxy_and_no_report_holds_a_value(bench: DeskBench) -> None:
    """What stands in the cache is not written down, wherever a proxy puts it."""
    run = bench.run("claude")
    reply = await bench.ask(run, body=Report(shown(run), (call(NOW),)))
    assert reply.code == Code.DENIED
    proxy = bench.run("egress")
    await ask(bench, proxy, shown(run))
    told = call(NOW, path="/value of anthropic", host="value of anthropic", fault="value of anthropic")
    assert (await bench.ask(proxy, body=Report(shown(run), (told,)))).status == "ok"
    assert "value of anthropic" not in repr(bench.sink.of("call"))
    assert bench.sink.of("call")[-1].host != ""


@pytest.mark.parametrize(("told", "recorded"), [(2**53 - 1, 0), (0, -30_000), (NOW + 86_400_000, 0)])
async def test_a_call_stands_in_the_audit_at_a_time_at_which_it_can_have_been(
    bench: DeskBench, told: int, recorded: int
) -> None:
    """Neither before the run's token was issued nor after the report, whatever a proxy says."""
    run = bench.run("claude")
    bench.clock.time += 30_000
    assert (await bench.ask(bench.run("egress"), body=Report(shown(run), (call(told),)))).status == "ok"
    assert bench.sink.of("call")[-1].timestamp == format_time(bench.clock.now() + recorded)


async def test_a_calls_name_is_written_down_only_if_the_registry_has_it(bench: DeskBench) -> None:
    """A value can have the form of a name."""
    run, proxy = bench.run("claude"), bench.run("egress")
    bench.vault.values["local://anthropic"] = b"openai"
    await ask(bench, proxy, shown(run))
    calls = (call(NOW), call(NOW, name="openai.other"))
    assert (await bench.ask(proxy, body=Report(shown(run), calls))).status == "ok"
    first, second = bench.sink.of("call")
    assert (first.secret_name, "openai" in (second.secret_name or "")) == (KEY, False)
