"""Leases and revocations at the desk: who may renew, what ends, and who is told."""

from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench
from people_desk import ALICE, GUARDED, asked, bench_with, decide, granted, notice, order, revoke

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Release, Renew, Resolve
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.control import revocation_message
from broker_worker.core.revocations import Kind, sign_revocation
from broker_worker.ports import Fetched


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names."""
    return bench_with(tmp_path, "once")


async def test_a_run_that_asks_again_uses_its_lease(bench: DeskBench) -> None:
    """Another run has one of its own."""
    run, other = bench.run(), bench.run()
    first, again, theirs = [await granted(bench, each) for each in (run, run, other)]
    assert first.lease == again.lease != theirs.lease
    assert [r.uses for r in bench.sink.of("access")] == [1, 2, 1]
    assert len({r.lease_id for r in bench.sink.of("access")}) == 2


@pytest.mark.parametrize(("grant", "life"), [("once", 300_000), ("6m", 360_000), ("run", 3_600_000)])
async def test_what_people_allowed_is_not_prolonged_without_them(tmp_path: Path, grant: str, life: int) -> None:
    """A lease on a single use ends with its value, one on a grant for a time with the grant."""
    bench = bench_with(tmp_path, grant)
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    lease = (await granted(bench, run, GUARDED)).lease
    assert lease is not None
    ends = 0
    while (renewed := (await bench.ask(run, body=Renew(lease))).results[0]).outcome == "granted":
        assert renewed.expires_at is not None
        ends, bench.clock.time = renewed.expires_at, renewed.expires_at - 1 if renewed.expires_at > ends else ends
    assert ends - NOW == life


async def test_a_second_copy_with_a_shorter_life_does_not_end_the_first(bench: DeskBench) -> None:
    """Whoever holds the longer one is still told when the secret is revoked."""
    run = bench.run()
    await granted(bench, run)
    await bench.ask(run, "openai.api_key", ttl=2)
    bench.clock.time += 3_000
    bench.affairs.poll(bench.desk.configuration, bench.clock.now())
    (letter,) = revoke(bench, order("secret", "openai.api_key"))
    assert notice(run, letter).event == "lease_revoked"


async def test_a_lease_is_renewed_to_its_hard_end_and_no_further(bench: DeskBench) -> None:
    """Each time by the value's own time to live."""
    run = bench.run()
    first = await granted(bench, run)
    assert first.lease is not None
    assert first.expires_at is not None
    ends: list[int] = []
    expires = first.expires_at
    while True:
        bench.clock.time = expires - 1
        reply = await bench.ask(run, body=Renew(first.lease))
        if reply.results[0].code is not None:
            break
        (renewed,) = reply.results
        assert renewed.value is None
        assert renewed.expires_at is not None
        ends.append(renewed.expires_at)
        if renewed.expires_at == expires:
            break
        expires = renewed.expires_at
    assert max(ends) == NOW + 3_600_000


@pytest.mark.parametrize("body", [Renew, Release])
async def test_only_the_holder_can_renew_or_give_back(bench: DeskBench, body: Any) -> None:
    """Not another run, not another agent, and not a token that somebody changed."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    for who, token in (
        (bench.run(), lease),
        (bench.run("codex"), lease),
        (run, lease[:-1] + b"\x7f"),
        (run, bytes(17)),
    ):
        assert (await bench.ask(who, body=body(token))).code == Code.INVALID


async def test_a_lease_that_was_given_back_is_over(bench: DeskBench) -> None:
    """The next value comes under another lease."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    assert (await bench.ask(run, body=Release(lease))).status == "ok"
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.EXPIRED
    assert (await granted(bench, run)).lease != lease


async def test_a_lease_of_a_version_that_was_replaced_is_not_renewed(bench: DeskBench) -> None:
    """The run asks for the new one."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    bench.desk.keep("local://openai", Fetched(b"newer", "8"), 60_000)
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.EXPIRED
    assert bench.sink.records[-1].reason == "superseded"


async def test_what_the_policy_no_longer_allows_is_not_renewed(bench: DeskBench) -> None:
    """But it can be given back."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    bench.load(policy="agents: {claude: {allow: []}}\n")
    assert (await bench.ask(run, body=Renew(lease))).results[0].code == Code.DENIED
    assert (await bench.ask(run, body=Release(lease))).status == "ok"


async def test_a_vault_that_lent_a_value_is_told_when_its_lease_ends(bench: DeskBench) -> None:
    """By its time, because it was given back, or before."""
    run = bench.run()
    for ends in ("time", "release", "revocation"):
        bench.desk.keep("local://openai", Fetched(b"made for us", "7", f"upstream-{ends}"), 600_000)
        lease = (await granted(bench, run)).lease
        assert lease is not None
        if ends == "revocation":
            revoke(bench, order("agent", "claude"))
        elif ends == "release":
            assert (await bench.ask(run, body=Release(lease))).status == "ok"
        else:
            bench.clock.time += 300_000
        poll(bench)
    assert told(bench) == ["upstream-time", "upstream-release", "upstream-revocation"]
    assert bench.jobs.jobs[0] == ("revoke_upstream", {"scheme": "local", "upstream_lease": "upstream-time"})


@pytest.mark.parametrize("registry", ["secrets: {}\n", "secrets: {openai.api_key: {ref: 'env://OPENAI'}}\n"])
async def test_the_vault_that_lent_a_value_is_told_whatever_becomes_of_the_name(
    bench: DeskBench, registry: str
) -> None:
    """The operator took it out of the registry, or it has its values from another vault by now."""
    bench.desk.keep("local://openai", Fetched(b"made for us", "7", "upstream-1"), 600_000)
    await granted(bench, bench.run())
    bench.load(registry=registry, broker="providers: [{type: local}, {type: env}]")
    bench.clock.time += 300_000
    poll(bench)
    assert bench.jobs.jobs == [("revoke_upstream", {"scheme": "local", "upstream_lease": "upstream-1"})]


LENT = """
secrets:
  db.user: "local://openai"
  db.password: "local://anthropic"
"""
LENT_POLICY = """
agents:
  claude: {allow: [db.user, db.password]}
  codex: {allow: [db.user, db.password]}
"""


@pytest.fixture
def lender(tmp_path: Path) -> DeskBench:
    """A desk with both fields of a credential that a vault made, which it may use for an hour."""
    bench = DeskBench(tmp_path, policy=LENT_POLICY, registry=LENT)
    for ref in ("local://openai", "local://anthropic"):
        bench.desk.keep(ref, Fetched(b"made for us", "v1", "upstream", 3_600_000), 600_000)
    return bench


async def test_a_credential_ends_with_the_last_lease_on_it(lender: DeskBench) -> None:
    """The fields of one are lent under a lease each, to two runs here; till then the vault is told nothing."""
    run, other = lender.run(), lender.run("codex")
    leases = [
        (who, (await granted(lender, who, name)).lease)
        for who, name in ((run, "db.user"), (run, "db.password"), (other, "db.password"))
    ]
    for number, (who, lease) in enumerate(leases):
        poll(lender)
        assert told(lender) == []
        assert lender.cache.get("local://openai", 600_000, NOW) is not None
        assert lease is not None
        assert (await lender.ask(who, body=Release(lease))).status == "ok", number
    poll(lender)
    assert told(lender) == ["upstream"]


async def test_what_a_vault_takes_back_is_not_served_from_the_cache(lender: DeskBench) -> None:
    """Neither the field that was lent nor the other one of the same credential."""
    run = lender.run()
    lease = (await granted(lender, run, "db.user")).lease
    assert lease is not None
    await lender.ask(run, body=Release(lease))
    poll(lender)
    assert [lender.cache.get(ref, 600_000, NOW) for ref in ("local://openai", "local://anthropic")] == [None, None]


@pytest.mark.parametrize("kind", ["run", "agent", "secret", "lease"])
async def test_an_order_ends_the_credential_for_all_who_share_it(lender: DeskBench, kind: Kind) -> None:
    """A vault cannot end it for one alone: the others are told that their leases ended, not that they were revoked."""
    run, other = lender.run(run_id="run-1"), lender.run("codex")
    await granted(lender, run, "db.user")
    theirs = (await granted(lender, other, "db.password")).lease
    assert theirs is not None
    (record, _) = lender.sink.of("access")
    subjects = {"run": "claude/run-1", "agent": "claude", "secret": "db.user", "lease": record.lease_id or ""}
    letters = revoke(lender, order(kind, subjects[kind]))
    assert told(lender) == ["upstream"]
    to_other = [notice(other, letter) for letter in letters if letter.reply_stream == other.channel.replies]
    assert [(each.event, each.name, each.lease_id) for each in to_other] == [
        ("lease_revoked", "db.password", theirs[:16])
    ]
    assert len(lender.sink.of("lease_ended")) == 2
    assert lender.cache.get("local://anthropic", 600_000, NOW) is None
    assert (await lender.ask(other, body=Renew(theirs))).results[0].code == Code.REVOKED


async def test_nothing_is_promised_beyond_the_end_of_a_credential(lender: DeskBench) -> None:
    """Neither by the value's time to live nor by renewing."""
    run = lender.run()
    lender.desk.keep("local://openai", Fetched(b"made for us", "v2", "upstream-2", 90_000), 600_000)
    result = await granted(lender, run, "db.user")
    assert result.expires_at == NOW + 90_000
    assert result.lease is not None
    lender.clock.time += 80_000
    (renewed,) = (await lender.ask(run, body=Renew(result.lease))).results
    assert renewed.expires_at == NOW + 90_000
    (later,) = (await lender.ask(run, "db.password")).results
    assert later.expires_at == NOW + 300_000  # by its time to live: the other credential lasts an hour
    lender.clock.time += 10_000
    poll(lender)
    assert told(lender) == ["upstream-2"]


def poll(bench: DeskBench) -> None:
    """What a worker does four times a second."""
    bench.affairs.poll(bench.desk.configuration, bench.clock.now())


def told(bench: DeskBench) -> list[object]:
    """The upstream leases that vaults were told to end."""
    return [payload["upstream_lease"] for job, payload in bench.jobs.jobs if job == "revoke_upstream"]


# --- revocations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "agent", "token", "secret", "lease"])
async def test_who_holds_what_was_revoked_is_told(bench: DeskBench, kind: Kind) -> None:
    """And nobody else; the order is kept in the broker's own file."""
    run, other = bench.run(run_id="run-1"), bench.run("codex")
    result = await granted(bench, run)
    await granted(bench, other)
    record = bench.sink.of("access")[0]
    subjects: dict[str, str | None] = {
        "run": "claude/run-1",
        "agent": "claude",
        "token": record.token_id,
        "secret": "openai.api_key",
        "lease": record.lease_id,
    }
    letters = revoke(bench, order(kind, subjects[kind] or ""))
    mine = [letter for letter in letters if letter.reply_stream == run.channel.replies]
    assert len(letters) == (2 if kind == "secret" else 1)
    told = notice(run, mine[0])
    if kind in ("secret", "lease"):
        assert result.lease is not None
        assert (told.event, told.name, told.lease_id) == ("lease_revoked", "openai.api_key", result.lease[:16])
    else:
        assert told.event == "run_revoked"
    assert len(bench.orders.kept) == 1


async def test_what_two_orders_are_about_ends_once(bench: DeskBench) -> None:
    """Given one after the other, and read together: the audit has one end of the lease, by the first of them."""
    run = bench.run(run_id="run-1")
    await granted(bench, run)
    bench.orders.new += [order("run", "claude/run-1"), order("agent", "claude"), order("secret", "openai.api_key")]
    desk = bench.desk
    letters = bench.affairs.poll(desk.configuration, bench.clock.now())
    assert [record.subject for record in bench.sink.of("lease_ended")] == ["run:claude/run-1"]
    assert {notice(run, letter).event for letter in letters} == {"run_revoked"}


async def test_a_revocation_holds_although_the_audit_is_full(bench: DeskBench) -> None:
    """It must not wait for a disk."""
    run = bench.run()
    await granted(bench, run)
    bench.sink.is_full = True
    revoke(bench, order("agent", "claude"))
    bench.sink.is_full = False
    assert (await bench.ask(run, "openai.api_key")).code == Code.REVOKED


async def test_an_order_of_somebody_else_is_recorded_and_not_obeyed(bench: DeskBench) -> None:
    """Signed with another key than the operator's."""
    run = bench.run()
    forged = sign_revocation(order("agent", "claude"), ALICE + run_public_key(ALICE))
    desk = bench.desk
    bench.affairs.take_control(revocation_message(forged), desk.configuration, NOW)
    assert [r.reason for r in bench.sink.of("decision_refused")] == ["forged"]
    await granted(bench, run)


async def test_only_the_version_that_was_revoked_is_refused(bench: DeskBench) -> None:
    """The next version of the same secret is served."""
    run = bench.run()
    await granted(bench, run)
    revoke(bench, order("secret", "openai.api_key", version="7"))
    assert (await bench.ask_one(run, "openai.api_key")).code == Code.REVOKED
    bench.desk.keep("local://openai", Fetched(b"newer", "8"), 60_000)
    assert (await granted(bench, run)).value == b"newer"


async def test_nothing_is_lent_of_a_version_that_was_revoked(bench: DeskBench) -> None:
    """The audit says why, and there is no lease of it that would have to be ended later."""
    bench.vault.values["local://openai"] = Fetched(b"made-up value", "7")
    revoke(bench, order("secret", "openai.api_key", version="7"))
    await bench.ask(bench.run(), "openai.api_key")
    (record,) = bench.sink.of("access")
    assert (record.reason, record.lease_id) == ("version_revoked", None)
    assert len(bench.affairs.leases.book) == 0


async def test_a_revoked_secret_ends_no_lease_of_another(tmp_path: Path) -> None:
    """The run goes on with what it holds besides."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    kept = await granted(bench, run, "anthropic.api_key")
    await granted(bench, run, "openai.api_key")
    (letter,) = revoke(bench, order("secret", "openai.api_key"))
    assert notice(run, letter).name == "openai.api_key"
    assert kept.lease is not None
    assert (await bench.ask(run, body=Renew(kept.lease))).status == "ok"


async def test_what_is_revoked_and_not_allowed_looks_denied(bench: DeskBench) -> None:
    """A revocation tells nobody that a secret exists who may not know it."""
    revoke(bench, order("secret", "github.read_token"))
    result = await bench.ask_one(bench.run(), "github.read_token")
    assert result.code == Code.DENIED


async def test_a_lease_that_is_revoked_while_the_queue_counts_is_not_released_any_more(bench: DeskBench) -> None:
    """The order arrives between the question to the queue and its answer."""
    run = bench.run()
    await granted(bench, run)
    bench.admission.before = lambda: revoke(bench, order("agent", "claude"))
    reply = await bench.ask(run, body=Resolve(("openai.api_key",)))
    assert reply.code == Code.REVOKED


@pytest.mark.parametrize("kind", ["lease", "secret"])
async def test_a_worker_that_did_not_issue_a_lease_knows_that_it_was_revoked(bench: DeskBench, kind: Kind) -> None:
    """As after all were started again: the order is in the file, and the lease in nobody's memory."""
    run = bench.run()
    lease = (await granted(bench, run)).lease
    assert lease is not None
    bench.affairs.leases.book.end(next(iter(bench.affairs.leases.book)))
    subject, version = (lease[:16].hex(), None) if kind == "lease" else ("openai.api_key", "7")
    bench.affairs.revocations.apply(order(kind, subject, version=version))
    (result,) = (await bench.ask(run, body=Renew(lease))).results
    assert (result.outcome, result.code) == ("refused", Code.REVOKED)


async def test_an_order_that_comes_while_an_approval_is_used_up_is_obeyed(bench: DeskBench) -> None:
    """Of a value that had to be fetched: it has waited for its vault, and waits for the queue once more."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    served = await bench.serve(bench.entry(run, None, GUARDED))
    assert served.waiting
    bench.admission.before = lambda: revoke(bench, order("secret", GUARDED))
    (answer,) = await bench.finish(served)
    (result,) = run.open(answer.envelope).results
    assert (result.code, result.value) == (Code.REVOKED, None)


async def test_another_credential_without_a_version_is_another_lease(lender: DeskBench) -> None:
    """Else to give the first back would not end it, and to end it would be the end of the other."""
    run, leases = lender.run(), []
    for upstream in ("upstream-1", "upstream-2"):
        lender.desk.keep("local://openai", Fetched(b"made for us", None, upstream, 3_600_000), 600_000)
        leases.append((await granted(lender, run, "db.user")).lease)
    assert leases[0] != leases[1]
