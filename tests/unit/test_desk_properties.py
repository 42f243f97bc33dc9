"""Whatever happens in whatever order: nothing leaves that the policy in force denies, or that is not on record."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from desk_workbench import DeskBench, Run
from fake_vault import VALUES
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_worker.core.errors import AuditError, QueueError
from broker_worker.pipeline.settling import Waiting
from broker_worker.ports import Answer, Entry

NAMES = ("openai.api_key", "anthropic.api_key", "github.read_token")
REFS = dict(zip(NAMES, ("local://openai", "local://anthropic", "local://github"), strict=True))
ALLOWED: tuple[dict[str, set[str]], ...] = (
    {"claude": set(NAMES[:2]), "codex": {NAMES[0], NAMES[2]}},
    {"claude": {NAMES[2]}, "codex": set()},
    {"codex": set(NAMES)},
)
LIMITS = "limits: {agent: {rate: 60/m, burst: 6}, run: {rate: 60/m, burst: 5}, secret: {rate: 60/m, burst: 8}}"


def policy(number: int) -> str:
    agents = ", ".join(f"{agent}: {{allow: [{', '.join(sorted(names))}]}}" for agent, names in ALLOWED[number].items())
    return f"agents: {{{agents}}}\n{LIMITS}"


class World:
    """A desk, four runs, and what is known to have left it."""

    def __init__(self, folder: Path) -> None:
        self.bench = DeskBench(folder, policy=policy(0), max_entries=2)
        self.in_force = 0
        self.runs = [self.bench.run(agent) for agent in ("claude", "claude", "codex", "codex")]
        self.sent: list[Entry] = []
        self.owner: dict[tuple[str, bytes], Run] = {}
        self.waiting: list[Waiting] = []

    def entry(self, run: Run, names: list[str]) -> Entry:
        made = self.bench.entry(run, None, *names)
        self.sent.append(made)
        self.owner[made.agent_id, made.entry_id] = run
        return made

    def repeat(self, number: int, *, in_another_entry: bool) -> Entry:
        """The same entry, claimed after a crash, or the same bytes in another one."""
        original = self.sent[number % len(self.sent)]
        if not in_another_entry:
            return original
        run = self.owner[original.agent_id, original.entry_id]
        copy = self.bench.entry(run, original.raw)
        self.owner[copy.agent_id, copy.entry_id] = run
        return copy

    async def serve(self, entries: list[Entry]) -> None:
        try:
            served = await self.bench.serve(*entries)
        except QueueError:
            return
        self.waiting += served.waiting
        self.check(served.answers)

    async def finish(self, count: int) -> None:
        some, self.waiting = self.waiting[:count], self.waiting[count:]
        for each in some:
            found = await self.bench.vault.get_many(list(each.refs))
            for ref, ttl_ms in each.refs.items():
                self.bench.desk.keep(ref, found[ref], ttl_ms)
            each.found.update(found)
        self.check(await self.bench.desk.resume(some, self.bench.admission))

    def check(self, answers: list[Answer]) -> None:
        """The heart of it: what an answer releases must be allowed now, right, and on record."""
        granted = {
            (record.request_id, record.secret_name)
            for record in self.bench.sink.of("access")
            if record.outcome == "granted"
        }
        for answer in answers:
            if answer.envelope is None:
                continue
            run = self.owner[answer.entry.agent_id, answer.entry.entry_id]
            reply = run.open(answer.envelope)
            for result in reply.results:
                if result.value is not None:
                    assert not self.bench.sink.is_full
                    assert result.name in ALLOWED[self.in_force].get(run.agent, set())
                    assert result.value == VALUES[REFS[result.name]]
                    assert (reply.request_id.hex(), result.name) in granted


_runs = st.integers(0, 3)
_names = st.lists(st.sampled_from([*NAMES, "no.such.name"]), min_size=1, max_size=4, unique=True)
_steps = st.one_of(
    st.tuples(st.just("ask"), st.lists(st.tuples(_runs, _names), min_size=1, max_size=4)),
    st.tuples(st.just("again"), st.integers(0, 50)),
    st.tuples(st.just("copy"), st.integers(0, 50)),
    st.tuples(st.just("finish"), st.integers(1, 5)),
    st.tuples(st.just("policy"), st.integers(0, 2)),
    st.tuples(st.just("policy during admission"), st.integers(0, 2)),
    st.tuples(st.just("later"), st.integers(1, 400_000)),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("queue away"), st.booleans()),
    st.tuples(st.just("queue forgets"), st.none()),
    st.tuples(st.just("vault empties"), st.booleans()),
)


async def step(world: World, what: str, argument: Any) -> None:
    """One thing that happens to a desk."""
    bench = world.bench

    def change_policy() -> None:
        bench.load(policy=policy(argument))
        world.in_force = argument
        bench.admission.before = lambda: None

    def empty_vault() -> None:
        bench.vault.values = {} if argument else dict(VALUES)

    def later() -> None:
        bench.clock.time += argument
        bench.desk.tick()

    sudden: dict[str, Callable[[], object]] = {
        "policy": change_policy,
        "policy during admission": lambda: setattr(bench.admission, "before", change_policy),
        "later": later,
        "disk": lambda: setattr(bench.sink, "is_full", argument),
        "queue away": lambda: setattr(bench.admission, "is_away", argument),
        "queue forgets": bench.admission.forget,
        "vault empties": empty_vault,
    }
    if what in sudden:
        sudden[what]()
    elif what == "ask":
        await world.serve([world.entry(world.runs[run], names) for run, names in argument])
    elif what == "finish":
        await world.finish(argument)
    elif world.sent:
        await world.serve([world.repeat(argument, in_another_entry=what == "copy")])


@settings(max_examples=60)
@given(st.lists(_steps, max_size=25))
async def test_nothing_leaves_that_is_not_allowed_right_and_on_record(steps: list[tuple[str, Any]]) -> None:
    """Interleaved batches, reloads, full disks, a queue that goes away or forgets, copies and repeats."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for what, argument in steps:
            with suppress(AuditError):  # a tick says so when the disk is full
                await step(world, what, argument)
        world.bench.sink.is_full = False
        await world.finish(1000)


@settings(max_examples=40)
@given(st.lists(st.tuples(_runs, _names), min_size=1, max_size=30), st.integers(0, 30))
async def test_limits_hold_whatever_the_queue_forgets(asks: list[tuple[int, list[str]]], forget_at: int) -> None:
    """In one moment no run gets more names than its burst, and no agent more than its own."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.bench.load(policy=policy(2) + "\n")
        world.in_force = 2
        for number, (run, names) in enumerate(asks):
            if number == forget_at:
                world.bench.admission.forget()
            await world.serve([world.entry(world.runs[run], names)])
            await world.finish(1000)
        granted: dict[str | None, int] = {}
        for record in world.bench.sink.of("access"):
            if record.outcome == "granted":
                for key in (record.agent_id, record.run_id):
                    granted[key] = granted.get(key, 0) + 1
        slack = 1  # a second of clocks' difference, at one name a second
        assert all(granted.get(run.credential.run_id, 0) <= 5 + slack for run in world.runs)
        assert granted.get("codex", 0) <= 6 + slack
