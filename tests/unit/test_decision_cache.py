"""A decision that is remembered is the one that would be made now: of that run, under these files, in its time."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from desk_workbench import NOW, DeskBench
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from people_desk import order, revoke

from agent_sdk.wire.messages import Operation, Request, Resolve
from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.configuration import CacheSettings, Configuration, SecretEntry
from broker_worker.core.limits import Rate
from broker_worker.core.policy import AgentPolicy, ApprovalRule, Denial, Grant, Origin, Policy
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.deciding import Limits, open_cases
from broker_worker.pipeline.decision_cache import DecisionCache
from broker_worker.ports import Entry

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
    assert len(cache._known) <= 4_096


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
    served = await bench.desk.serve(entries, bench.admission)
    statuses = [run.open(answer.envelope).status for answer in served.answers]
    assert statuses.count("ok") == 4  # the burst, and one more for the clocks' slack of a second
    assert statuses.count("refused") == 5
