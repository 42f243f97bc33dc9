"""What an approval is good for, to the last detail, and for how long people may give it."""

from datetime import timedelta
from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from people_desk import GUARDED, asked, bench_with, decide, granted, order, revoke
from writing_workbench import ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Operation, Put
from broker_worker.ports import Fetched

MINUTE = 60_000
WRITES = """
    agents:
      claude:
        allow:
          - {secret: made.put, actions: [write], overwrite: true, approval: {approvers: [ops]}}
          - {secret: made.generated, actions: [generate], overwrite: true, approval: {approvers: [ops]}}
          - {secret: made.generated, actions: [resolve]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk that asks ops for one of claude's two names."""
    return bench_with(tmp_path, "once")


@pytest.mark.parametrize(
    ("approved", "asked_for"),
    [
        (Put("made.put", b"a value", replaces="7"), Put("made.put", b"a value", replaces="8")),
        (Put("made.put", b"a value", replaces="7"), Put("made.put", b"a value")),
        (Put("made.put", b"a value", replaces="7"), Put("made.put", b"another", replaces="7")),
        (Generate("made.generated", "hex:32", replaces="7"), Generate("made.generated", "hex:16", replaces="7")),
        (Generate("made.generated", "hex:32", replaces="7"), Generate("made.generated", "hex:32", replaces="8")),
        (Generate("made.generated", "hex:32", replaces="7"), Generate("made.generated", "hex:32")),
        (
            Generate("made.generated", "hex:32", replaces="7"),
            Generate("made.generated", "hex:32", replaces="7", reveal=True),
        ),
    ],
    ids=["version", "put creates", "value", "recipe", "generated version", "generate creates", "reveal"],
)
async def test_an_approved_write_is_the_only_one_that_is_made(
    tmp_path: Path, approved: Operation, asked_for: Operation
) -> None:
    """Whatever differs of what would be stored, replaced or shown is another question to people."""
    bench = bench_in(tmp_path, WRITES)
    for name in ("made.put", "made.generated"):
        bench.vault.values[f"local://agents.{name}"] = b"the version before"
    run = bench.run()
    assert (await ask(bench, run, approved)).code == Code.APPROVAL_PENDING
    decide(bench, asked(bench)[0])
    assert (await ask(bench, run, asked_for)).code == Code.APPROVAL_PENDING
    assert bench.vault.writes == []
    assert (await ask(bench, run, approved)).outcome == "granted"
    assert [expected for *_, expected in bench.vault.writes] == ["7"]


async def test_people_can_decide_no_longer_than_the_runs_token_is_good_for(bench: DeskBench) -> None:
    """Nor longer than the entry's time."""
    for minutes in (2, 60):
        await bench.ask(bench.run(ttl=timedelta(minutes=minutes)), GUARDED)
    assert [request.expires_at - NOW for request in asked(bench)] == [2 * MINUTE, 10 * MINUTE]


@pytest.mark.parametrize("late", [0, 10_000])
async def test_people_are_not_asked_for_a_run_whose_token_has_ended(bench: DeskBench, late: int) -> None:
    """Such a token is taken for a moment more, as clocks differ; a question under it could never be decided."""
    run = bench.run(ttl=timedelta(minutes=1))
    bench.clock.time += MINUTE + late
    result = await bench.ask_one(run, GUARDED)
    assert (result.code, asked(bench)) == (Code.EXPIRED, [])
    assert bench.sink.of("approval_requested") == []


async def test_a_grant_whose_time_is_over_is_asked_for_anew_at_once(tmp_path: Path) -> None:
    """Also where people could have decided on the question for longer than that; it was not they who were late."""
    bench = bench_with(tmp_path, "1m")
    run = bench.run()
    await bench.ask(run, GUARDED)
    (first,) = asked(bench)
    decide(bench, first)
    await granted(bench, run, GUARDED)
    bench.clock.time += MINUTE
    assert (await bench.ask_one(run, GUARDED)).code == Code.APPROVAL_PENDING
    assert [request.asked_at for request in asked(bench)] == [NOW + MINUTE]


@pytest.mark.parametrize(("grant", "ends_after"), [("1m", MINUTE), ("once", 10 * MINUTE)])
async def test_an_approval_that_ends_while_the_worker_waits_releases_nothing(
    tmp_path: Path, grant: str, ends_after: int
) -> None:
    """Whether for its turn to release, or for a queue that takes its time to mark the single use."""
    bench = bench_with(tmp_path, grant)
    run = bench.run()
    await bench.ask(run, GUARDED)
    decide(bench, asked(bench)[0])
    bench.desk.keep("local://anthropic", Fetched(b"value of anthropic", "7"), 60 * MINUTE)
    entry, calls = bench.entry(run, None, GUARDED), 0

    def is_slow() -> None:
        nonlocal calls
        calls += 1
        bench.clock.time += ends_after if grant == "once" and calls == 2 else 0

    async def turn() -> None:
        bench.clock.time += ends_after if grant != "once" else 0

    bench.admission.before = is_slow
    served = await bench.desk.serve(bench.desk.open([entry]), bench.admission, turn)
    assert bench.clock.time == NOW + ends_after
    (result,) = run.open(served.answers[0].envelope).results
    assert (result.code, result.value) == (Code.APPROVAL_EXPIRED, None)


async def test_people_are_not_asked_for_what_is_refused_anyway(bench: DeskBench) -> None:
    """A secret that was revoked, alone or beside one that is not."""
    run = bench.run()
    revoke(bench, order("secret", GUARDED))
    assert (await bench.ask_one(run, GUARDED)).code == Code.REVOKED
    reply = await bench.ask(run, "openai.api_key", GUARDED)
    assert {each.name: each.code for each in reply.results} == {"openai.api_key": None, GUARDED: Code.REVOKED}
    assert asked(bench) == []


@pytest.mark.parametrize("are_on_one_line", [True, False])
async def test_names_under_two_entries_are_two_questions(bench: DeskBench, are_on_one_line: bool) -> None:
    """Each to the people whom its own entry names, also where the entries stand on one line."""
    entries = [
        "{secret: openai.api_key, approval: {approvers: [ops]}}",
        f"{{secret: {GUARDED}, approval: {{approvers: [{'leads' if are_on_one_line else 'ops'}]}}}}",
    ]
    allow = f" [{', '.join(entries)}]" if are_on_one_line else "".join(f"\n      - {entry}" for entry in entries)
    bench.load(policy=f"agents:\n  claude:\n    allow:{allow}\n")
    await bench.ask(bench.run(), "openai.api_key", GUARDED)
    found = {request.names: request.approvers for request in asked(bench)}
    assert found == {("openai.api_key",): ("ops",), (GUARDED,): ("leads",) if are_on_one_line else ("ops",)}
