"""Questions of whoever acts for a run: which orders void them, and who is told what came of them."""

from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench, Run
from people_desk import GUARDED, POLICY, asked, bench_with, decide, notice, order, revoke

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve, Subject
from broker_worker.pipeline.letters import Letter

PROXIES = """
      egress:
        allow: []
        acts_for: {all_agents: true, deliver: [proxy]}
      other:
        allow: []
        acts_for: {all_agents: true, deliver: [proxy]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names, and two agents that act for others."""
    bench = bench_with(tmp_path, "once")
    bench.load(policy=POLICY.rstrip() % "once" + PROXIES)
    return bench


async def ask(bench: DeskBench, actor: Run, run: Run, purpose: str = "a call") -> Code | None:
    """What an actor is told that asks for the guarded name on behalf of a run."""
    body = Resolve((GUARDED,), purpose, None, "proxy", Subject(run.credential.token))
    reply = await bench.ask(actor, body=body)
    return reply.code or reply.results[0].code


def poll(bench: DeskBench) -> list[Letter]:
    """What a worker does four times a second; the notices that follow from it."""
    return bench.affairs.poll(bench.desk.configuration, bench.clock.now())


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("agent", "egress"), ("agent", "claude"), ("run", "claude/run-1"), ("secret", GUARDED)],
    ids=["actor", "agent", "run", "secret"],
)
async def test_an_order_about_the_run_or_who_asks_for_it_voids_the_question(
    bench: DeskBench, kind: Any, subject: str
) -> None:
    """For good: an approval that comes all the same serves nobody, also after what was revoked was reinstated."""
    run, proxy = bench.run(run_id="run-1"), bench.run("egress")
    assert await ask(bench, proxy, run) == Code.APPROVAL_PENDING
    (request,) = asked(bench)
    revoke(bench, order(kind, subject))
    (letter,) = poll(bench)
    told = notice(proxy, letter)
    assert (told.event, told.approval) == ("approval_settled", request.digest()[:8])
    assert [record.reason for record in bench.sink.of("approval_settled")] == ["void"]
    revoke(bench, order(kind, subject, order="reinstate", at=NOW + 1))
    decide(bench, request)
    assert await ask(bench, proxy, run) == Code.APPROVAL_PENDING
    assert request not in asked(bench)


@pytest.mark.parametrize(
    ("kind", "subject"), [("agent", "other"), ("agent", "codex"), ("run", "claude/run-2")], ids=lambda each: each
)
async def test_an_order_about_somebody_else_leaves_the_question_to_people(
    bench: DeskBench, kind: Any, subject: str
) -> None:
    """Another agent that acts for runs, and another run that the same one acts for."""
    run, proxy = bench.run(run_id="run-1"), bench.run("egress")
    assert await ask(bench, proxy, run) == Code.APPROVAL_PENDING
    (request,) = asked(bench)
    revoke(bench, order(kind, subject))
    assert poll(bench) == []
    decide(bench, request)
    assert await ask(bench, proxy, run) is None


async def test_what_was_approved_is_refused_to_an_actor_that_was_revoked(bench: DeskBench) -> None:
    """The run's own rights are untouched by that; what people allowed that actor, they allowed no other."""
    run, proxy, other = bench.run(), bench.run("egress"), bench.run("other")
    assert await ask(bench, proxy, run) == Code.APPROVAL_PENDING
    decide(bench, asked(bench)[0])
    revoke(bench, order("agent", "egress"))
    assert await ask(bench, proxy, run) == Code.REVOKED
    assert await ask(bench, other, run) == Code.APPROVAL_PENDING


@pytest.mark.parametrize("end", ["approved", "denied", "void"])
async def test_every_run_of_who_acts_for_others_is_told_what_came_of_a_question(bench: DeskBench, end: str) -> None:
    """Whichever of them asked first, the others may wait for the same; nobody else is told."""
    run, first, second = bench.run(run_id="run-1"), bench.run("egress"), bench.run("egress")
    await ask(bench, bench.run("other"), run, "another call")
    for proxy in (first, second):
        assert await ask(bench, proxy, run) == Code.APPROVAL_PENDING
    (request,) = [each for each in asked(bench) if each.actor == "egress"]
    if end == "void":
        revoke(bench, order("agent", "egress"))
        letters = poll(bench)
    else:
        letters = decide(bench, request, "approve" if end == "approved" else "deny")
    by_stream = {letter.reply_stream: letter for letter in letters}
    assert (len(letters), set(by_stream)) == (2, {first.channel.replies, second.channel.replies})
    for proxy in (first, second):
        told = notice(proxy, by_stream[proxy.channel.replies])
        assert (told.event, told.approval) == ("approval_settled", request.digest()[:8])
