"""Leases of what was asked for on behalf of a run: whose they are, who gives them back, and who is told."""

from pathlib import Path
from typing import Any

import pytest
from desk_workbench import DeskBench
from on_behalf_workbench import KEY, POLICY, PROXIED, acting_desk, ask, shown
from people_desk import notice, order, revoke

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Release, Renew, Resolve
from broker_worker.ports import WriteNote


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk with two agents that act for others."""
    return acting_desk(tmp_path)


async def test_two_runs_have_leases_of_their_own_with_one_proxy(bench: DeskBench) -> None:
    """And a run cannot renew what its proxy holds."""
    first, second, proxy = bench.run("claude"), bench.run("claude"), bench.run("egress")
    leases = [(await ask(bench, proxy, shown(run))).results[0].lease for run in (first, second, first)]
    assert leases[0] == leases[2] != leases[1]
    assert leases[0] is not None
    assert (await bench.ask(first, body=Renew(leases[0]))).code == Code.INVALID
    assert (await bench.ask(proxy, body=Renew(leases[0]))).status == "refused"


async def test_whoever_acts_for_a_run_gives_back_what_it_was_lent(bench: DeskBench) -> None:
    """That lease is over then, and the audit says whose it was; nobody prolongs it without the run."""
    run, proxy = bench.run("claude"), bench.run("egress")
    (first,) = (await ask(bench, proxy, shown(run))).results
    assert first.lease is not None
    assert (await bench.ask(proxy, body=Renew(first.lease))).results[0].code == Code.DENIED
    assert (await bench.ask(proxy, body=Release(first.lease))).status == "ok"
    record = bench.sink.records[-1]
    assert (record.agent_id, record.run_id, record.action) == ("claude", run.credential.run_id, "release")
    assert record.actor == f"egress/{proxy.credential.run_id}"
    assert (await bench.ask(proxy, body=Release(first.lease))).results[0].code == Code.EXPIRED
    (second,) = (await ask(bench, proxy, shown(run))).results
    assert second.lease != first.lease
    assert bench.sink.records[-1].uses == 1


async def test_who_acts_for_others_renews_no_lease_of_theirs_by_rights_of_its_own(bench: DeskBench) -> None:
    """Nor on a worker that does not know the lease."""
    policy = POLICY.replace("egress:\n        allow: []", "egress:\n        allow: [anthropic.api_key]")
    bench.load(policy=policy)
    proxy = bench.run("egress")
    (result,) = (await ask(bench, proxy, shown(bench.run("claude")))).results
    assert result.lease is not None
    assert (await bench.ask(proxy, body=Renew(result.lease))).results[0].code == Code.DENIED
    for holding in bench.affairs.leases.book:
        bench.affairs.leases.book.end(holding)
    assert (await bench.ask(proxy, body=Renew(result.lease))).results[0].code == Code.DENIED
    assert (await bench.ask(proxy, body=Release(result.lease))).results[0].code == Code.EXPIRED


async def test_whoever_acts_for_many_runs_is_told_once_of_a_new_version(bench: DeskBench) -> None:
    """Else the notices of thousands of leases would push answers out of its stream."""
    proxy = bench.run("egress")
    for run in (bench.run("claude"), bench.run("claude")):
        assert (await ask(bench, proxy, shown(run))).status == "ok"
    note = WriteNote("0" * 32, "written", PROXIED, "local://anthropic", bench.clock.now(), version="8")
    superseding, desk = bench.affairs.superseding, bench.desk
    (letter,) = superseding.note(note, desk.configuration, bench.clock.now())
    assert (notice(proxy, letter).event, notice(proxy, letter).name) == ("secret_rotated", PROXIED)


@pytest.mark.parametrize("kind", ["agent", "run", "token"])
async def test_revoking_who_acts_for_others_ends_what_it_was_lent(bench: DeskBench, kind: Any) -> None:
    """It is told, also right after files changed, and the audit has the end of each lease."""
    run, proxy, other = bench.run("claude"), bench.run("egress"), bench.run("gateway")
    await ask(bench, proxy, shown(run))
    await ask(bench, other, shown(run), KEY, "value")
    identity = bench.desk.opener.verifier.verify(proxy.credential.token, bench.clock.now())
    subject = {"agent": "egress", "run": f"egress/{identity.run_id}", "token": identity.token_id}[kind]
    bench.load(policy=POLICY)
    (letter,) = revoke(bench, order(kind, subject))
    assert notice(proxy, letter).event == "run_revoked"
    (ended,) = bench.sink.of("lease_ended")
    assert (ended.agent_id, ended.secret_name) == ("claude", PROXIED)
    assert [holding.lease.name for holding in bench.affairs.leases.book] == [KEY]


async def test_a_lease_of_a_value_goes_on_only_while_the_run_may_have_it(bench: DeskBench) -> None:
    """Once the policy gives it to a proxy alone, the run's own lease is not renewed."""
    run = bench.run("claude")
    (result,) = (await bench.ask(run, body=Resolve((KEY,), "", None, "env"))).results
    assert result.lease is not None
    assert (await bench.ask(run, body=Renew(result.lease))).status == "ok"
    bench.load(policy=POLICY.replace("- openai.api_key", "- {secret: openai.api_key, deliver: [proxy]}"))
    assert (await bench.ask(run, body=Renew(result.lease))).results[0].code == Code.DENIED
    bench.load(policy=POLICY.replace("- openai.api_key", "- {secret: openai.api_key, deliver: [file]}"))
    assert (await bench.ask(run, body=Renew(result.lease))).status == "ok"


async def test_a_run_that_is_revoked_while_its_lease_is_given_back_does_not_look_like_the_proxy(
    bench: DeskBench,
) -> None:
    """Only that lease is answered as revoked: a client whose own run is revoked drops all that it holds."""
    run, proxy = bench.run("claude"), bench.run("egress")
    (result,) = (await ask(bench, proxy, shown(run))).results
    assert result.lease is not None
    bench.admission.before = lambda: revoke(bench, order("run", f"claude/{run.credential.run_id}"))
    reply = await bench.ask(proxy, body=Release(result.lease))
    assert (reply.code, reply.results[0].code) == (None, Code.REVOKED)
