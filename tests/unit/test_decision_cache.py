"""A decision that is remembered is the one that would be made now: of that run, under these files, in its time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from desk_workbench import NOW, DeskBench
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from people_desk import GUARDED, asked, bench_with, decide, order, revoke
from people_desk import POLICY as PEOPLE_POLICY
from rich.pretty import pretty_repr

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Operation, Request, Resolve
from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.configuration import CacheSettings, Configuration, SecretEntry
from broker_worker.core.limits import Rate
from broker_worker.core.policy import AgentPolicy, ApprovalRule, Denial, Grant, Origin, Policy
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.deciding import MARKS_MS, Limits, open_cases
from broker_worker.pipeline.decision_cache import DecisionCache
from broker_worker.ports import AdmissionAsk, Entry, Verdict

HERE = Origin("policy.yaml", 1)
NAMES = ("a.one", "a.two", "b.three")
GRANTS = st.builds(
    Grant,
    pattern=st.sampled_from([NamePattern("a.one"), NamePattern("a.*"), NamePattern("b.three")]),
    origin=st.builds(Origin, st.just("policy.yaml"), st.integers(1, 99)),
    purpose_required=st.booleans(),
    runs=st.sampled_from([None, ("run-*",), ("other",)]),
    not_after=st.sampled_from([None, NOW + 10, NOW + 20]),
    rate=st.sampled_from([None, Rate(6, 60_000, 3)]),
    approval=st.sampled_from([None, None, ApprovalRule(("ops",), 1, 600_000, "once")]),
    deliver=st.sampled_from([("value", "env", "file"), ("env",), ("file", "value")]),
)
BODIES = st.builds(
    Resolve,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
    purpose=st.sampled_from(["", "release notes"]),
    deliver=st.sampled_from(["value", "env", "proxy"]),
) | st.builds(
    Resolve,
    names=st.just(NAMES),
    ways=st.tuples(*[st.sampled_from(["value", "env", "file", "env,file"])] * len(NAMES)),
)
TIMES = st.lists(st.integers(-15, 25), min_size=1, max_size=12)


def configuration_of(grants: list[Grant], denied: list[str]) -> Configuration:
    """Files with one agent that has these entries."""
    denials = tuple(Denial(NamePattern(name), HERE) for name in denied)
    limit = Rate(60, 60_000, 4)
    agent = AgentPolicy("codex", HERE, tuple(grants), denials, limit=limit, run_limit=limit)
    registry = {name: SecretEntry(name, f"local://{name}", None, HERE) for name in NAMES[:2]}
    policy = Policy({"codex": agent}, secret_limit=limit)
    return Configuration(policy, registry, CacheSettings(), (), (), "")


def ask_of(identity: RunIdentity, body: Operation, now: int) -> Ask:
    """A request as it comes from the opener; the cache looks at its peer no more than the policy does."""
    request = Request(b"r" * 16, now, now + 15_000, "token", body)
    return Ask(Entry("codex", b"1-0", b"", 0), cast("Any", None), identity, request)


def outcome(ask: Ask, limits: Limits, now: int) -> tuple[object, ...]:
    """Everything that the rest of the way can see."""
    cases = [structs.astuple(case) for case in ask.cases]
    mark = limits.admission_of(ask, now)
    return ask.code, ask.reason, ask.deliver, ask.guarded, cases, structs.astuple(mark)


@given(
    st.lists(GRANTS, max_size=4),
    st.lists(st.sampled_from(NAMES), max_size=1),
    st.lists(BODIES, min_size=1, max_size=2),
    TIMES,
)
def test_what_is_remembered_is_what_would_be_decided_now(
    grants: list[Grant], denied: list[str], bodies: list[Resolve], times: list[int]
) -> None:
    """At whatever times it is asked again, a clock that is set back among them."""
    configuration = configuration_of(grants, denied)
    limits = Limits(configuration.policy)
    cache = DecisionCache(limits)
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    for later in times:
        for body in bodies:
            remembered, plain = ask_of(identity, body, NOW), ask_of(identity, body, NOW)
            cache.open_cases(remembered, configuration, NOW + later)
            open_cases(plain, configuration, NOW + later)
            assert outcome(remembered, limits, NOW + later) == outcome(plain, limits, NOW + later)


def test_another_run_with_the_same_operation_is_decided_by_itself() -> None:
    """What was remembered of one run says nothing of another, whose token may say less."""
    configuration = configuration_of([Grant(NamePattern("a.one"), HERE, runs=("run-1",))], [])
    cache, body = DecisionCache(Limits(configuration.policy)), Resolve(("a.one",))
    first = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    others = [replace(first, run_id="run-2"), replace(first, scope=(NamePattern("a.two"),))]
    reasons = []
    for identity in (first, *others, first):
        ask = ask_of(identity, body, NOW)
        cache.open_cases(ask, configuration, NOW)
        reasons.append(ask.cases[0].reason)
    assert reasons == [None, "run_not_covered", "out_of_scope", None]


def test_what_other_files_decided_does_not_count() -> None:
    """Not even if nobody told the cache that they were swapped."""
    before = configuration_of([Grant(NamePattern("a.one"), HERE)], [])
    after = configuration_of([], [])
    cache, body = DecisionCache(Limits(before.policy)), Resolve(("a.one",))
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    reasons = []
    for configuration in (before, after, before):
        ask = ask_of(identity, body, NOW)
        cache.open_cases(ask, configuration, NOW)
        reasons.append(ask.cases[0].reason)
    assert reasons == [None, "no_grant", None]


def test_what_becomes_of_a_case_is_not_remembered() -> None:
    """Each request goes on with cases of its own: the refusal of one is not that of the next."""
    configuration = configuration_of([Grant(NamePattern("a.one"), HERE)], [])
    cache, body = DecisionCache(Limits(configuration.policy)), Resolve(("a.one",))
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    for _ in range(3):
        ask = ask_of(identity, body, NOW)
        cache.open_cases(ask, configuration, NOW)
        assert (ask.cases[0].code, ask.cases[0].value, ask.cases[0].holding) == (None, None, None)
        ask.cases[0].value = b"a value"
        ask.refuse(cast("Any", "denied"), "for this once")


def test_a_great_many_runs_do_not_fill_the_memory() -> None:
    """However many ask, a bounded number is remembered."""
    configuration = configuration_of([Grant(NamePattern("a.one"), HERE)], [])
    cache, body = DecisionCache(Limits(configuration.policy)), Resolve(("a.one",))
    for number in range(10_000):
        identity = RunIdentity("issuer", "codex", f"run-{number}", b"k" * 32, "token", NOW, NOW + 3_600_000)
        cache.open_cases(ask_of(identity, body, NOW), configuration, NOW)
    assert len(cache._known) <= 8_192


def test_requests_for_many_names_fill_no_more_memory() -> None:
    """What counts is how many names are remembered: nothing limits yet how often a run says another purpose."""
    configuration = Configuration(Policy({}), {}, CacheSettings(), (), (), "")
    cache = DecisionCache(Limits(configuration.policy))
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token", NOW, NOW + 3_600_000)
    names = tuple(f"a.name{number}" for number in range(64))
    for number in range(1_000):
        cache.open_cases(ask_of(identity, Resolve(names, f"purpose {number}"), NOW), configuration, NOW)
    assert sum(len(decided.cases) for decided in cache._known.values()) <= 8_192


def test_no_text_of_the_agent_and_no_value_is_shown() -> None:
    """A purpose may quote a value, and a log may show anything: neither a request nor what is remembered of it does."""
    configuration = configuration_of([Grant(NamePattern("a.one"), HERE)], [])
    cache = DecisionCache(Limits(configuration.policy))
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    ask = ask_of(identity, Resolve(("a.one",), "it is hunter2"), NOW)
    cache.open_cases(ask, configuration, NOW)
    ask.purpose, ask.draft, ask.cases[0].value = "it is hunter2", b"hunter2", b"hunter2"
    for shown in (repr(ask.decided), pretty_repr(ask.decided), repr(ask), pretty_repr(ask)):
        assert "a.one" in shown
        assert "hunter2" not in shown


def test_what_people_had_to_approve_under_other_files_is_not_remembered_of_the_next_request() -> None:
    """Nor does a decision that is remembered let go of an approval that a request holds already."""
    configuration = configuration_of([Grant(NamePattern("a.one"), HERE)], [])
    cache, body = DecisionCache(Limits(configuration.policy)), Resolve(("a.one",))
    identity = RunIdentity("issuer", "codex", "run-1", b"k" * 32, "token-1", NOW, NOW + 3_600_000)
    guarded = []
    for was_guarded in (True, False, True):
        ask = ask_of(identity, body, NOW)
        ask.guarded = was_guarded
        cache.open_cases(ask, configuration, NOW)
        guarded.append(ask.guarded)
    assert guarded == [True, False, True]


@pytest.mark.parametrize("how", ["policy", "revocation", "end"])
async def test_a_run_that_had_a_value_is_refused_from_the_next_request_on(tmp_path: Path, how: str) -> None:
    """A new policy, a revocation and the end of an entry hold at once, however often it was allowed before."""
    end = "2030-03-17T17:46:41Z"  # a second after NOW
    policy = f"agents: {{claude: {{allow: [{{secret: openai.api_key, not_after: '{end}'}}]}}}}"
    bench = DeskBench(tmp_path, policy=policy)
    run = bench.run()
    for _ in range(3):
        assert (await bench.ask_one(run, "openai.api_key")).outcome == "granted"
    if how == "policy":
        bench.load(policy="agents: {claude: {allow: []}}")
    elif how == "revocation":
        revoke(bench, order("secret", "openai.api_key"))
    else:
        bench.clock.time = NOW + 1_001
    assert (await bench.ask_one(run, "openai.api_key")).outcome == "refused"


async def test_limits_that_were_narrowed_hold_from_the_next_request_on(tmp_path: Path) -> None:
    """What a request counts against follows the files in force as well."""
    allowed = "agents: {claude: {allow: [openai.api_key]}}"
    bench = DeskBench(tmp_path, policy=allowed)
    run = bench.run()
    assert (await bench.ask(run, "openai.api_key")).status == "ok"
    bench.clock.time += 60_000
    bench.load(policy=allowed + "\nlimits: {run: {rate: 6/m, burst: 2}}")
    statuses = [(await bench.ask(run, "openai.api_key")).status for _ in range(4)]
    assert statuses == ["ok", "ok", "refused", "refused"]


@pytest.mark.parametrize("limited", ["agent", "run", "secret"])
async def test_a_batch_that_a_lying_queue_admits_whole_is_counted_whole(tmp_path: Path, limited: str) -> None:
    """Each request of it counts against every limit that it shares with the others: this worker knows better."""
    policy = f"agents: {{claude: {{allow: [openai.api_key]}}}}\nlimits: {{{limited}: {{rate: 60/m, burst: 3}}}}"
    bench = DeskBench(tmp_path, policy=policy)
    run = bench.run()
    assert (await bench.ask(run, "openai.api_key")).status == "ok"
    bench.clock.time += 60_000
    bench.admission._count = lambda *_: 0  # type: ignore[method-assign]  # a queue that says yes to everything
    entries = [bench.entry(run, None, "openai.api_key") for _ in range(9)]
    served = await bench.serve(*entries)
    statuses = [run.open(answer.envelope).status for answer in served.answers]
    assert statuses.count("ok") == 4  # the burst, and one more for the clocks' slack of a second
    assert statuses.count("refused") == 5


async def test_fewer_verdicts_than_requests_release_nothing(tmp_path: Path) -> None:
    """An admission that says nothing of a request has not admitted it."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    before = len(bench.sink.records)

    async def admit_the_first(asks: Sequence[AdmissionAsk]) -> list[Verdict]:
        return [bench.admission._verdict(asks[0])]

    bench.admission.admit = admit_the_first  # type: ignore[method-assign]  # a queue that says too little
    with pytest.raises(ValueError, match="shorter"):
        await bench.serve(*[bench.entry(run, None, "openai.api_key") for _ in range(2)])
    assert (len(bench.sink.records), bench.sink.begun) == (before, ())


async def test_asking_again_for_what_people_must_allow_is_no_use_of_the_secret(tmp_path: Path) -> None:
    """However often a request is repeated while they decide, the secret's own limit is there for what they allow."""
    bench = bench_with(tmp_path / "config", "once")
    limit = "\n    limits: {secrets: {anthropic.api_key: {rate: 1/h, burst: 1}}}\n"
    bench.load(policy=PEOPLE_POLICY % "once" + limit)
    run = bench.run()
    codes = [(await bench.ask_one(run, GUARDED)).code for _ in range(3)]
    assert codes == [Code.APPROVAL_PENDING] * 3
    decide(bench, asked(bench)[0])
    assert (await bench.ask_one(run, GUARDED)).outcome == "granted"


async def test_a_copy_that_another_worker_answered_is_refused(tmp_path: Path) -> None:
    """Only the queue knows of it: that everything else of the batch is new does not let it through."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    first, request = bench.entry(run, None, "openai.api_key"), run.request("openai.api_key")
    copy = bench.entry(run, run.channel.seal(request))
    bench.admission._seen[keynames.seen(run.agent, request.deadline // MARKS_MS), request.request_id] = b"1-1"
    served = await bench.serve(first, copy)
    assert [run.open(each.envelope).status if each.envelope else None for each in served.answers] == ["ok", None]


async def test_every_name_of_a_batch_counts_against_the_limit_of_the_run(tmp_path: Path) -> None:
    """Of three requests for two names, a burst of three and a second's slack let two go on, whatever the queue says."""
    allow = "agents: {claude: {allow: [openai.api_key, anthropic.api_key]}}"
    bench = DeskBench(tmp_path, policy=f"{allow}\nlimits: {{run: {{rate: 60/m, burst: 3}}}}")
    run, names = bench.run(), ("openai.api_key", "anthropic.api_key")
    assert (await bench.ask(run, *names)).status == "ok"
    bench.clock.time += 60_000
    bench.admission._count = lambda *_: 0  # type: ignore[method-assign]  # a queue that says yes to everything
    served = await bench.serve(*(bench.entry(run, None, *names) for _ in range(3)))
    statuses = [run.open(answer.envelope).status for answer in served.answers]
    assert statuses == ["ok", "ok", "refused"]
