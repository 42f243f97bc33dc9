"""What a worker inherits from one that is gone: it ends like the worker's own, and whoever has it is told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench, Run
from people_desk import granted, notice, order, revoke

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Release, Renew, Resolve, Subject
from broker_worker.core.leases import Holding
from broker_worker.core.revocations import Kind, Revocation
from broker_worker.pipeline import recalling
from broker_worker.pipeline.letters import Letter
from broker_worker.pipeline.reach import ended_by
from broker_worker.ports import Fetched, WriteNote

KEY = "openai.api_key"
POLICY = """
agents:
  claude: {allow: [openai.api_key]}
  codex: {allow: [openai.api_key]}
  egress: {allow: [], acts_for: {agents: [claude], deliver: [proxy]}}
"""


@pytest.fixture
def gone(tmp_path: Path) -> DeskBench:
    """The desk of a worker that lends something and is gone then."""
    return DeskBench(tmp_path / "gone", policy=POLICY)


@pytest.fixture
def heir(tmp_path: Path) -> DeskBench:
    """The desk of the one that comes after."""
    return DeskBench(tmp_path / "heir", policy=POLICY)


def inherit(heir: DeskBench, gone: DeskBench) -> list[Letter]:
    """The heir takes over what the other had lent; what runs are told by that."""
    holdings = [each for each in gone.affairs.leases.book.news if isinstance(each, Holding)]
    return heir.affairs.inherit(holdings, heir.clock.now())


def subject_of(gone: DeskBench, kind: Kind) -> str:
    """What an order must name to be about the first thing that was lent."""
    record = gone.sink.of("access")[0]
    subjects = {"run": "claude/run-1", "agent": "claude", "token": record.token_id, "secret": KEY}
    return subjects.get(kind) or record.lease_id or ""


KINDS = pytest.mark.parametrize("kind", ["run", "agent", "token", "secret", "lease"])


@KINDS
async def test_an_order_ends_what_was_inherited(gone: DeskBench, heir: DeskBench, kind: Kind) -> None:
    """Its holder is told, although the heir has never heard of it."""
    run, other = gone.run(run_id="run-1"), gone.run("codex")
    result = await granted(gone, run)
    await granted(gone, other)
    assert inherit(heir, gone) == []
    letters = revoke(heir, order(kind, subject_of(gone, kind)))
    mine = [letter for letter in letters if letter.reply_stream == run.channel.replies]
    assert len(letters) == (2 if kind == "secret" else 1)
    expected = "lease_revoked" if kind in ("secret", "lease") else "run_revoked"
    assert notice(run, mine[0]).event == expected
    assert result.lease is not None
    ended = [record.lease_id for record in heir.sink.of("lease_ended")]
    assert result.lease[:16].hex() in ended
    assert len(ended) == len(letters)
    assert revoke(heir, order(kind, subject_of(gone, kind), at=NOW + 1)) == []


@KINDS
async def test_what_was_revoked_in_between_ends_when_it_is_inherited(
    gone: DeskBench, heir: DeskBench, kind: Kind
) -> None:
    """The order came while nobody knew the lease: it is told late rather than never."""
    run = gone.run(run_id="run-1")
    await granted(gone, run)
    assert revoke(heir, order(kind, subject_of(gone, kind))) == []
    (letter,) = inherit(heir, gone)
    assert notice(run, letter).event == ("lease_revoked" if kind in ("secret", "lease") else "run_revoked")
    (ended,) = heir.sink.of("lease_ended")
    assert ended.subject == f"{kind}:{subject_of(gone, kind)}"
    assert list(heir.affairs.leases.book) == []


@pytest.mark.parametrize("about", ["run:claude/run-1", "agent:claude", "agent:egress", "run:egress/proxy-1"])
@pytest.mark.parametrize("is_early", [False, True], ids=["afterwards", "before"])
async def test_who_acts_for_a_run_is_told_as_well(gone: DeskBench, heir: DeskBench, about: str, is_early: bool) -> None:
    """By an order about the run, or about itself, whether or not its lease was inherited by then."""
    run, proxy = gone.run(run_id="run-1"), gone.run("egress", run_id="proxy-1")
    body = Resolve((KEY,), "a call", None, "proxy", Subject(run.credential.token))
    assert (await gone.ask(proxy, body=body)).status == "ok"
    kind, _, subject = about.partition(":")
    letters = [] if is_early else inherit(heir, gone)
    letters += revoke(heir, order(kind, subject))  # type: ignore[arg-type]  # a table of kinds
    letters += inherit(heir, gone) if is_early else []
    (letter,) = letters
    assert notice(proxy, letter).event == ("lease_revoked" if "claude" in about else "run_revoked")


async def test_a_credential_is_taken_back_by_the_heir(gone: DeskBench, heir: DeskBench) -> None:
    """The vault is told when the last lease on it has ended: by an order, or by its hard end."""
    for upstream in ("first", "second"):
        gone.desk.keep("local://openai", Fetched(b"made for us", upstream, upstream, 3_600_000), 600_000)
        await granted(gone, gone.run(run_id=upstream))
    inherit(heir, gone)
    revoke(heir, order("run", "claude/first"))
    assert [payload["upstream_lease"] for _, payload in heir.jobs.jobs] == ["first"]
    heir.clock.time += 3_600_000
    desk = heir.desk
    heir.affairs.poll(desk.configuration, heir.clock.now())
    assert [payload["upstream_lease"] for _, payload in heir.jobs.jobs] == ["first", "second"]


async def test_who_holds_an_older_version_is_told_of_a_newer_one(gone: DeskBench, heir: DeskBench) -> None:
    """A rotation after the restart reaches it."""
    run = gone.run()
    await granted(gone, run)
    inherit(heir, gone)
    desk, note = heir.desk, WriteNote("ab" * 16, "written", KEY, "local://openai", NOW + 1, version="8")
    (letter,) = heir.affairs.superseding.note(note, desk.configuration, NOW + 1)
    assert notice(run, letter).event == "secret_rotated"


async def test_a_run_renews_and_gives_back_what_was_inherited(gone: DeskBench, heir: DeskBench) -> None:
    """As before the restart; a lease that it is given anew is another one."""
    run = gone.run()
    first = (await granted(gone, run)).lease
    assert first is not None
    inherit(heir, gone)
    same, heir.clock.time = Run(run.credential, heir.clock.now), NOW + 1
    second = (await granted(heir, same)).lease
    assert second not in (None, first)
    assert heir.sink.of("access")[-1].uses == 1
    assert (await heir.ask(same, body=Renew(first))).status == "ok"
    assert (await heir.ask(same, body=Release(first))).status == "ok"
    assert [each.lease.token for each in heir.affairs.leases.book] == [second]
    assert (await heir.ask(same, body=Renew(first))).results[0].code == Code.EXPIRED


@pytest.mark.parametrize("is_issuer_first", [True, False])
async def test_a_lease_that_two_workers_knew_is_inherited_once(
    tmp_path: Path, gone: DeskBench, heir: DeskBench, is_issuer_first: bool
) -> None:
    """Who renewed it does not know the vault's lease behind it: that goes on, until the run's lease is over."""
    gone.desk.keep("local://openai", Fetched(b"made for us", "7", "made", 3_600_000), 600_000)
    run = gone.run(run_id="run-1")
    lease = (await granted(gone, run)).lease
    assert lease is not None
    beside = DeskBench(tmp_path / "beside", policy=POLICY)
    assert (await beside.ask(Run(run.credential, beside.clock.now), body=Renew(lease))).status == "ok"
    for each in (gone, beside) if is_issuer_first else (beside, gone):
        inherit(heir, each)
    desk = heir.desk
    heir.affairs.poll(desk.configuration, heir.clock.now())
    assert heir.jobs.jobs == []
    revoke(heir, order("lease", lease[:16].hex()))
    assert [payload["upstream_lease"] for _, payload in heir.jobs.jobs] == ["made"]


async def test_who_renewed_a_lease_learns_of_the_credential_behind_it(gone: DeskBench, heir: DeskBench) -> None:
    """So an order about one lease on it ends the others as well, as the vault can only end it for all."""
    gone.desk.keep("local://openai", Fetched(b"made for us", "7", "made", 3_600_000), 600_000)
    run, other = gone.run(run_id="run-1"), gone.run(run_id="run-2")
    lease = (await granted(gone, run)).lease
    assert lease is not None
    await granted(gone, other)
    assert (await heir.ask(Run(run.credential, heir.clock.now), body=Renew(lease))).status == "ok"
    inherit(heir, gone)
    revoke(heir, order("lease", lease[:16].hex()))
    assert list(heir.affairs.leases.book) == []
    assert [payload["upstream_lease"] for _, payload in heir.jobs.jobs] == ["made"]


async def test_what_was_inherited_is_known_after_a_renewal_as_well(gone: DeskBench, heir: DeskBench) -> None:
    """It is not noted anew, as if a run had it without a credential."""
    gone.desk.keep("local://openai", Fetched(b"made for us", "7", "made", 3_600_000), 600_000)
    run = gone.run(run_id="run-1")
    lease = (await granted(gone, run)).lease
    assert lease is not None
    inherit(heir, gone)
    assert (await heir.ask(Run(run.credential, heir.clock.now), body=Renew(lease))).status == "ok"
    assert list(heir.affairs.leases.book.news) == []


async def test_each_lease_is_held_against_its_own_order_alone(
    gone: DeskBench, heir: DeskBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of each would hold up the worker, and with it every run, if all were held against all."""
    looked_at = list[int]()

    def counted(revocation: Revocation, leases: Mapping[str, Holding]) -> list[Holding]:
        looked_at.append(len(leases))
        return ended_by(revocation, leases)

    monkeypatch.setattr(recalling, "ended_by", counted)
    for number in range(5):
        await granted(gone, gone.run(run_id=f"run-{number}"))
        revoke(heir, order("run", f"claude/run-{number}"))
    looked_at.clear()
    assert len(inherit(heir, gone)) == 5
    assert looked_at == [1] * 5
    assert len(heir.sink.of("lease_ended")) == 5


async def test_what_ends_with_another_lease_ends_once(gone: DeskBench, heir: DeskBench) -> None:
    """Two runs share a credential, and an order is about each of them."""
    gone.desk.keep("local://openai", Fetched(b"made for us", "7", "made", 3_600_000), 600_000)
    for number in range(2):
        await granted(gone, gone.run(run_id=f"run-{number}"))
        revoke(heir, order("run", f"claude/run-{number}"))
    inherit(heir, gone)
    assert len(heir.sink.of("lease_ended")) == 2
    assert [payload["upstream_lease"] for _, payload in heir.jobs.jobs] == ["made"]
