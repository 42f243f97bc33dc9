"""Approvals at the desk: what a fault at each port does to one, and what one is good for."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench
from people_desk import GUARDED, IDENTITY_PUBLIC, POLICY, asked, bench_with, decide, granted, notice, order, revoke

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from broker_worker.core.approval_book import DAY_MS, SKEW_MS
from broker_worker.core.approvals import open_request
from broker_worker.core.errors import QueueError
from broker_worker.ports import Fetched

CODEX = "{secret: anthropic.api_key, approval: {approvers: [ops]}}"


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names."""
    return bench_with(tmp_path, "once")


async def test_people_are_asked_once_and_the_request_is_signed(bench: DeskBench) -> None:
    """However often the run asks; what is asked is in the audit before it is on the queue."""
    run = bench.run()
    first, second = [await bench.ask_one(run, GUARDED, purpose="deploy") for _ in range(2)]
    assert first.code == second.code == Code.APPROVAL_PENDING
    (request,) = asked(bench)
    assert first.approval == second.approval == request.digest()[:8]
    assert open_request(bench.affairs.signed(request), IDENTITY_PUBLIC) == request
    assert [r.approval_id for r in bench.sink.of("approval_requested")] == [request.approval_id]


async def test_whom_to_notify_is_what_the_files_say(bench: DeskBench) -> None:
    """Nobody without them; else a job with what a person must know, and where to decide."""
    run = bench.run(task="release 1.2")
    await bench.ask(run, GUARDED, purpose="deploy")
    (request,) = asked(bench)
    bench.affairs.published(request, bench.desk.configuration)
    assert bench.jobs.jobs == []
    targets = "provider: {type: local}\nnotifications: [{name: bell, kind: command, command: [/bin/true]}]\n"
    bench.affairs.published(request, bench.load(policy=POLICY % "once", broker=targets))
    ((job, told),) = bench.jobs.jobs
    assert job == "notify_approval"
    assert (told["agent_id"], told["names"], told["purpose"], told["task"]) == (
        "claude",
        [GUARDED],
        "deploy",
        "release 1.2",
    )
    assert told["link"] == f"http://localhost:7710/approvals/{request.approval_id}"


async def test_the_run_is_told_when_it_is_settled(bench: DeskBench) -> None:
    """By a notice sealed to its key, whatever was decided."""
    run = bench.run()
    for purpose, verdict in (("a", "approve"), ("b", "deny")):
        await bench.ask(run, GUARDED, purpose=purpose)
        request = asked(bench)[-1]
        (letter,) = decide(bench, request, verdict)
        told = notice(run, letter)
        assert (told.event, told.approval) == ("approval_settled", request.digest()[:8])
    assert [r.reason for r in bench.sink.of("approval_settled")] == ["approved", "denied"]


async def test_nobody_decided_in_time(bench: DeskBench) -> None:
    """The run is told so for half a minute; then people are asked anew."""
    run = bench.run(ttl=__import__("datetime").timedelta(hours=2))
    await bench.ask(run, GUARDED)
    bench.clock.time += 600_000
    desk = bench.desk
    (letter,) = bench.affairs.poll(desk.configuration, bench.clock.now())
    assert notice(run, letter).event == "approval_settled"
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_EXPIRED
    bench.clock.time += 30_000
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING


async def test_what_was_voided_stays_void(bench: DeskBench) -> None:
    """Also if the policy of before comes back: people are asked anew, and the old decision serves nobody."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    (old,) = asked(bench)
    configuration = bench.load(policy=POLICY % "run")
    bench.affairs.poll(configuration, bench.clock.now())
    assert [r.reason for r in bench.sink.of("approval_settled")] == ["void"]
    bench.load(policy=POLICY % "once")
    decide(bench, old)
    for _ in range(2):
        assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    (new,) = asked(bench)
    assert new != old


async def test_a_full_disk_asks_nobody(bench: DeskBench) -> None:
    """What could not be recorded is not asked; when the disk is back, it is."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.sink.is_full = True
    assert (await bench.ask(run, GUARDED)).code == Code.AUDIT_UNAVAILABLE
    assert asked(bench) == []
    bench.sink.is_full = False
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    assert len(asked(bench)) == 1


async def test_a_use_that_cannot_be_kept_releases_nothing(bench: DeskBench) -> None:
    """The broker's own file is full: no value, and the approval is still there afterwards."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.once.is_full = True
    result = await bench.ask_one(run, GUARDED)
    assert (result.code, result.value) == (Code.AUDIT_UNAVAILABLE, None)


async def test_the_queue_goes_away_while_an_approval_is_used(bench: DeskBench) -> None:
    """Nothing is released; the same entry, claimed again, is."""
    run = bench.run()
    await granted(bench, run)
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 60_000)
    entry = bench.entry(run, None, GUARDED)
    calls = 0

    def fail_second() -> None:
        nonlocal calls
        calls += 1
        bench.admission.is_away = calls == 2

    bench.admission.before = fail_second
    with pytest.raises(QueueError):
        await bench.serve(entry)
    bench.admission.before = lambda: None
    bench.admission.is_away = False
    (answer,) = (await bench.serve(entry)).answers
    assert run.open(answer.envelope).results[0].value == b"value of anthropic"


async def test_a_request_that_was_claimed_after_its_approval_was_used_goes_on(bench: DeskBench) -> None:
    """A worker died between the use and the release: the same entry is served, and nobody is asked again."""
    run = bench.run()
    await granted(bench, run)
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.affairs.unpublished.clear()
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 60_000)
    entry = bench.entry(run, None, GUARDED)
    for _ in range(2):
        (answer,) = (await bench.serve(entry)).answers
        assert run.open(answer.envelope).results[0].value == b"value of anthropic"
    assert asked(bench) == []


@pytest.mark.parametrize("forgets", ["queue", "file"])
async def test_a_single_use_is_single_whoever_forgets(bench: DeskBench, forgets: str) -> None:
    """The queue's mark and the broker's own file each suffice."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    assert (await bench.ask_one(run, GUARDED)).outcome == "granted"
    if forgets == "queue":
        bench.admission.forget()
    else:
        bench.once.uses.clear()
    again = await bench.ask_one(run, GUARDED)
    assert (again.outcome, again.value) == ("refused", None)


async def test_the_queue_knows_of_a_use_for_longer_than_its_approval_lasts(bench: DeskBench) -> None:
    """The clocks of two workers may differ, so one of them may still take for good what is over for the other."""
    run = bench.run()
    await bench.ask(run, GUARDED)
    (request,) = asked(bench)
    decide(bench, request)
    await granted(bench, run, GUARDED)
    mark = bench.admission.asked[-1]
    assert mark.replay_key == keynames.used("claude", request.approval_id)
    assert mark.keep_ms >= request.expires_at - NOW + SKEW_MS


async def test_a_replay_asks_nobody(bench: DeskBench) -> None:
    """A copy of a request under another entry id is refused before people hear of it."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    raw = run.sealed("openai.api_key", GUARDED)
    await bench.serve(bench.entry(run, raw))
    bench.affairs.unpublished.clear()
    await bench.serve(bench.entry(run, raw))
    assert asked(bench) == []


@pytest.mark.parametrize("change", ["purpose", "run", "agent", "name", "policy", "key"])
async def test_what_was_approved_is_what_is_released(tmp_path: Path, change: str) -> None:
    """One that differs in anything needs an approval of its own."""
    bench = bench_with(tmp_path, "run")
    run = bench.run(run_id="run-1")
    await bench.ask(run, GUARDED, purpose="deploy")
    decide(bench, asked(bench)[0])
    assert (await bench.ask_one(run, GUARDED, purpose="deploy")).outcome == "granted"
    asks: dict[str, Any] = {"purpose": "deploy"}
    if change == "purpose":
        asks["purpose"] = "deploy!"
    elif change in ("run", "key"):
        run = bench.run(run_id="run-2" if change == "run" else "run-1")
    elif change == "agent":
        run = bench.run("codex")
    elif change == "policy":
        bench.load(policy=POLICY % "run" + "      grok: {allow: []}\n")
    name = "openai.api_key" if change == "name" else GUARDED
    result = await bench.ask_one(run, name, **asks)
    if change == "name":
        assert result.outcome == "granted"
        assert bench.sink.records[-1].approval_id is None
    else:
        assert result.code == (Code.DENIED if change == "agent" else Code.APPROVAL_PENDING)


async def test_nothing_guarded_leaves_while_its_vault_is_asked_and_the_approval_ends(tmp_path: Path) -> None:
    """A grant of a minute, a vault that takes longer: the value came too late."""
    bench = bench_with(tmp_path, "1m")
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    entry = bench.entry(run, None, GUARDED, life=120_000)
    served = await bench.serve(entry)
    assert len(served.waiting) == 1
    bench.clock.time += 61_000
    (answer,) = await bench.finish(served)
    assert run.open(answer.envelope).results[0].code == Code.APPROVAL_EXPIRED


async def test_asking_is_no_use_of_a_secret_and_having_it_is(tmp_path: Path) -> None:
    """What waits for people counts against no limit of the secret, so a run cannot use it up for others by asking."""
    bench = bench_with(tmp_path, "run")
    bench.load(policy="limits: {secret: {rate: 1/h, burst: 1}}\n" + dedent(POLICY % "run"))
    run, other = bench.run(), bench.run()
    for each in (run, run, other):
        assert (await bench.ask_one(each, GUARDED)).code == Code.APPROVAL_PENDING
    for request in asked(bench):
        decide(bench, request)
    await granted(bench, run, GUARDED)
    for each in (run, other):
        assert (await bench.ask_one(each, GUARDED)).code == Code.RATE_LIMITED


async def test_people_see_how_often_an_agent_has_asked_today(bench: DeskBench) -> None:
    """In all of its runs together, but not what other agents asked, nor what is a day old."""
    bench.load(policy=dedent(POLICY % "once").replace("codex:\n    allow: [", f"codex:\n    allow: [{CODEX}, "))
    for agent, at in (("claude", 0), ("codex", 1), ("claude", DAY_MS - 1), ("claude", DAY_MS)):
        bench.clock.time = NOW + at
        await bench.serve(bench.entry(bench.run(agent), None, GUARDED))
    assert [(each.agent_id, each.asked_today) for each in asked(bench)] == [
        ("claude", 0),
        ("codex", 0),
        ("claude", 1),
        ("claude", 1),
    ]


async def test_nobody_is_notified_of_what_was_void_before_it_could_be_seen(tmp_path: Path) -> None:
    """The order came while the queue took the question."""
    bench = bench_with(tmp_path, "once")
    targets = "provider: {type: local}\nnotifications: [{name: bell, kind: command, command: [/bin/true]}]\n"
    bench.load(policy=POLICY % "once", broker=targets)
    await bench.ask(bench.run(), GUARDED)
    (request,) = asked(bench)
    revoke(bench, order("agent", "claude"))
    bench.affairs.settle(bench.desk.configuration, bench.clock.now())
    bench.affairs.published(request, bench.desk.configuration)
    assert bench.jobs.jobs == []
    assert not bench.affairs._announced
