"""One request, several ways: each name is decided, approved and recorded in the way that it is to go."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import DeskBench
from hypothesis import given, settings
from hypothesis import strategies as st
from people_desk import asked, bench_with, decide

from agent_sdk.request import checked_resolve
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Delivery, OwnDelivery, Resolve, Subject, Way
from broker_worker.core.policy import DELIVERIES, WAYS
from broker_worker.people.inbox import Item
from broker_worker.people.wording import describe

OPENAI, ANTHROPIC, GITHUB = NAMES = ("openai.api_key", "anthropic.api_key", "github.read_token")
POLICY = """
    agents:
      claude:
        allow:
          - openai.api_key
          - {secret: anthropic.api_key, deliver: [env]}
          - {secret: github.read_token, deliver: [proxy]}
          - {secret: github.read_token, deliver: [file, env]}
      egress:
        allow: []
        acts_for: {agents: [claude], deliver: [env, file, proxy]}
"""
GUARDED = """
    agents:
      claude:
        allow:
          - {pattern: "*.api_key", approval: {approvers: [ops], ttl: 10m, grant: %s}}
          - github.read_token
"""
own_ways = st.sampled_from(["value", "env", "file", "env,file"])


def wanting(ways: Mapping[str, Delivery], purpose: str = "") -> Resolve:
    """A request for some names, each in its way."""
    return checked_resolve(tuple(ways), purpose, None, ways)


def recorded(bench: DeskBench) -> list[tuple[str | None, str | None, str | None, str | None]]:
    """What the audit has of each name: its way, what came of it, and why."""
    return [(each.secret_name, each.deliver, each.outcome, each.reason) for each in bench.sink.of("access")]


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk whose entries differ in the ways that they leave."""
    return DeskBench(tmp_path / "config", policy=POLICY)


@pytest.fixture
def people(tmp_path: Path) -> DeskBench:
    """A desk where one entry asks people about two names."""
    bench = bench_with(tmp_path / "config", "once")
    bench.load(policy=GUARDED % "once")
    return bench


async def test_each_name_is_decided_and_recorded_in_its_own_way(bench: DeskBench) -> None:
    """One request, one answer, and a line of the audit for each name that says how it went."""
    reply = await bench.ask(bench.run(), body=wanting({OPENAI: "value", ANTHROPIC: "env", GITHUB: "file"}))
    assert (reply.status, [result.name for result in reply.results]) == ("ok", list(NAMES))
    assert recorded(bench) == [
        (OPENAI, "value", "granted", None),
        (ANTHROPIC, "env", "granted", None),
        (GITHUB, "file", "granted", None),
    ]
    assert len({each.request_id for each in bench.sink.of("access")}) == 1


async def test_a_name_that_may_not_go_its_way_is_refused_among_others_that_may(bench: DeskBench) -> None:
    """The reply names it, and the audit says why; another way would have been allowed."""
    reply = await bench.ask(bench.run(), body=wanting({OPENAI: "env", ANTHROPIC: "file", GITHUB: "file"}))
    assert [(each.name, each.outcome, each.code) for each in reply.results] == [
        (OPENAI, "granted", None),
        (ANTHROPIC, "refused", Code.DENIED),
        (GITHUB, "granted", None),
    ]
    assert (ANTHROPIC, "file", "refused", "deliver_not_granted") in recorded(bench)
    refused = next(each for each in bench.sink.of("access") if each.outcome == "refused")
    assert (refused.rule, refused.code) == ("policy.yaml:6", Code.DENIED)


async def test_a_value_that_goes_two_ways_is_one_use_of_one_lease(bench: DeskBench) -> None:
    """An entry must allow both, and the audit names both."""
    run = bench.run()
    reply = await bench.ask(run, body=wanting({OPENAI: "env,file", ANTHROPIC: "env,file", GITHUB: "env,file"}))
    assert [each.outcome for each in reply.results] == ["granted", "refused", "granted"]
    assert recorded(bench) == [
        (OPENAI, "env,file", "granted", None),
        (ANTHROPIC, "env,file", "refused", "deliver_not_granted"),
        (GITHUB, "env,file", "granted", None),
    ]
    assert [each.uses for each in bench.sink.of("access")] == [1, None, 1]


async def test_two_entries_that_allow_a_way_each_do_not_allow_both_at_once(bench: DeskBench) -> None:
    """What holds for a value, its age and its approval, is what one entry says."""
    bench.load(
        policy="agents:\n  claude:\n    allow:\n"
        "      - {secret: openai.api_key, deliver: [env], max_ttl: 1m}\n"
        "      - {secret: openai.api_key, deliver: [file]}\n"
    )
    run = bench.run()
    for way, outcome in (("env", "granted"), ("file", "granted"), ("env,file", "refused")):
        assert (await bench.ask(run, body=Resolve((OPENAI,), deliver=way))).results[0].outcome == outcome  # type: ignore[arg-type]  # a table of ways


class TestProperties:
    @settings(max_examples=30, deadline=None)
    @given(
        allowed=st.fixed_dictionaries(dict.fromkeys(NAMES, st.sets(st.sampled_from(WAYS), min_size=1))),
        ways=st.dictionaries(st.sampled_from(NAMES), own_ways, min_size=1),
    )
    def test_whatever_is_asked_in_whichever_ways(
        self, allowed: Mapping[str, set[Way]], ways: Mapping[str, OwnDelivery]
    ) -> None:
        """A name is released if and only if its entry allows each way that it is to go, whatever the others do."""
        entries = "".join(
            f"      - {{secret: {name}, deliver: [{', '.join(sorted(may))}]}}\n" for name, may in allowed.items()
        )
        with tempfile.TemporaryDirectory() as folder:
            bench = DeskBench(Path(folder) / "config", policy="agents:\n  claude:\n    allow:\n" + entries)
            reply = asyncio.run(bench.ask(bench.run(), body=wanting(ways)))
        for result in reply.results:
            is_allowed = set(ways[result.name].split(",")) <= allowed[result.name]
            assert (result.outcome == "granted") == (result.value is not None) == is_allowed
        outcomes = [(name, ways[name], result.outcome) for name, result in zip(ways, reply.results, strict=True)]
        assert [each[:3] for each in recorded(bench)] == outcomes


async def test_nobody_names_several_ways_on_behalf_of_a_run(bench: DeskBench) -> None:
    """Who acts for a run does so in one way, which its own entry of the policy has."""
    run, proxy = bench.run(), bench.run("egress")
    shown = Subject(run.credential.token)
    assert (await bench.ask(proxy, body=Resolve((OPENAI,), deliver="file", subject=shown))).status == "ok"
    both = await bench.ask(proxy, body=Resolve((OPENAI,), deliver="env,file", subject=shown))
    assert (both.code, bench.sink.records[-1].reason) == (Code.DENIED, "may_not_act_for_others")
    mixed = Resolve((OPENAI, GITHUB), subject=shown, ways=("env", "file"))
    served = await bench.serve(bench.entry(proxy, None, body=mixed))
    assert [answer.envelope for answer in served.answers] == [None]  # not of the protocol, so nobody is held to it
    assert recorded(bench) == [(OPENAI, "file", "granted", None)]


async def test_people_are_asked_about_each_way_by_itself(people: DeskBench) -> None:
    """One request of an agent, and for each way one plain question; the way is part of what they sign."""
    run = people.run()
    ways: dict[str, Delivery] = {OPENAI: "env", ANTHROPIC: "file", GITHUB: "file"}
    reply = await people.ask(run, body=wanting(ways, "deploy"))
    assert [each.code for each in reply.results] == [Code.APPROVAL_PENDING, Code.APPROVAL_PENDING, None]
    questions = {request.deliver: request for request in asked(people)}
    assert {way: request.names for way, request in questions.items()} == {"env": (OPENAI,), "file": (ANTHROPIC,)}
    assert {(each.secret_name, each.deliver) for each in people.sink.of("approval_requested")} == {
        (OPENAI, "env"),
        (ANTHROPIC, "file"),
    }
    decide(people, questions["env"])
    decide(people, questions["file"], "deny")
    reply = await people.ask(run, body=wanting(ways, "deploy"))
    assert [each.code for each in reply.results] == [None, Code.APPROVAL_DENIED, None]
    used = people.sink.of("access")[-3:]
    assert [(each.deliver, each.approval_id) for each in used] == [
        ("env", questions["env"].approval_id),
        ("file", questions["file"].approval_id),
        ("file", None),
    ]


@pytest.mark.parametrize("way", [way for way in DELIVERIES if way != "proxy"])
async def test_people_read_how_a_value_is_to_reach_the_work(people: DeskBench, way: Delivery) -> None:
    """In words of its own for each way, before they sign."""
    await people.ask(people.run(), body=Resolve((OPENAI,), deliver=way))
    (question,) = asked(people)
    matter = people.affairs.approvals.book.get(question.digest())
    assert matter is not None
    told = dict(describe(Item(matter, "waiting", 0), people.clock.now()))["to do"]
    assert ("environment" in told, "file" in told) == ("env" in way, "file" in way)


@pytest.mark.parametrize(
    "other",
    [
        {OPENAI: "file", ANTHROPIC: "file"},
        {OPENAI: "value", ANTHROPIC: "value"},
        {OPENAI: "env,file", ANTHROPIC: "env,file"},
        {OPENAI: "env", ANTHROPIC: "file"},
        {OPENAI: "file", ANTHROPIC: "env"},
    ],
)
async def test_an_approval_of_several_names_is_for_the_way_of_each(people: DeskBench, other: Any) -> None:
    """A request in which one of them would go another way is another question, and uses nothing up."""
    people.load(policy=GUARDED % "run")
    run = people.run()
    approved: dict[str, Delivery] = {OPENAI: "env", ANTHROPIC: "env"}
    await people.ask(run, body=wanting(approved))
    (question,) = asked(people)
    assert (question.names, question.deliver) == ((ANTHROPIC, OPENAI), "env")
    decide(people, question)
    for body in (wanting(other), wanting(other)):
        reply = await people.ask(run, body=body)
        assert {each.code for each in reply.results} == {Code.APPROVAL_PENDING}
    assert all(each.code is None for each in (await people.ask(run, body=wanting(approved))).results)


async def test_a_list_says_which_ways_are_left(bench: DeskBench) -> None:
    """Of every entry that covers the name; what the token's scope leaves out is not listed."""
    reply = await bench.ask(bench.run())
    assert dict(zip(reply.names, reply.ways, strict=True)) == {
        ANTHROPIC: ("env",),
        GITHUB: ("env", "file", "proxy"),
        OPENAI: WAYS,
    }
    narrow = await bench.ask(bench.run(scope=["anthropic.*"]))
    assert (narrow.names, narrow.ways) == ((ANTHROPIC,), (("env",),))
    nobody = await bench.ask(bench.run("egress"))
    assert (nobody.names, nobody.ways) == ((), ())
