"""Writes at the desk: who may, what is recorded before and after, what people approve, and what a crash leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench, until
from people_desk import asked, decide, notice
from writing_workbench import ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Operation, Put, Renew
from broker_worker.core.control import write_message
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Entry, Fetched
from broker_worker.state.write_file import WriteFile
from broker_worker.worker.writes import Writes

CANARY = b"canary-1f7e8a"


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """The same for most tests."""
    return bench_in(tmp_path)


def trail(bench: DeskBench) -> list[tuple[str, str | None, str | None, str | None]]:
    """What the audit says, in order."""
    return [(r.event, r.action, r.outcome, r.reason) for r in bench.sink.records]


async def test_what_is_put_can_be_resolved_at_once_by_whoever_may(bench: DeskBench) -> None:
    """A created name needs no entry in the registry: its place follows from the name."""
    stored = await ask(bench, bench.run(), Put("made.key", CANARY))
    assert (stored.outcome, stored.version, stored.value, stored.lease) == ("granted", "1", None, None)
    assert bench.vault.writes == [("local://agents.made.key", CANARY, "")]
    read = await bench.ask_one(bench.run("codex"), "made.key")
    assert (read.value, read.version) == (CANARY, "1")


async def test_the_vault_is_asked_after_the_record(bench: DeskBench) -> None:
    """The write is on disk before the vault hears of it, and its outcome before the answer leaves."""
    seen: list[list[Any]] = []
    put = bench.vault.put

    async def watched(ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        seen.append(trail(bench))
        return await put(ref, value, expected=expected)

    bench.vault.put = watched  # type: ignore[method-assign]  # to see what is recorded by then
    await ask(bench, bench.run(), Put("made.key", CANARY))
    assert seen == [[("write_started", "put", None, None)]]
    assert trail(bench)[1:] == [("access", "put", "granted", None)]
    started, ended = bench.sink.records
    assert started.request_id == ended.request_id
    assert ended.version == "1"


async def test_nothing_is_written_that_cannot_be_recorded(bench: DeskBench) -> None:
    """With a full disk the vault is not asked."""
    bench.sink.is_full = True
    assert (await ask(bench, bench.run(), Put("made.key", CANARY))).code == Code.AUDIT_UNAVAILABLE
    assert bench.vault.writes == []


async def test_a_write_that_cannot_be_noted_is_not_made(bench: DeskBench, tmp_path: Path) -> None:
    """The same for the file by which workers tell a write from its repetition."""
    (tmp_path.parent / f"{tmp_path.name}-state").write_text("in the way")
    assert (await ask(bench, bench.run(), Put("made.key", CANARY))).code == Code.AUDIT_UNAVAILABLE
    assert bench.vault.writes == []
    assert trail(bench)[-1] == ("access", "put", "refused", "write_not_recorded")


@pytest.mark.parametrize(
    ("agent", "body", "code", "reason"),
    [
        ("codex", Put("made.key", b"x1"), Code.DENIED, "action_not_granted"),
        ("codex", Generate("openai.api_key", "hex:32"), Code.DENIED, "action_not_granted"),
        ("claude", Generate("openai.api_key", "hex:32"), Code.DENIED, "action_not_granted"),
        ("claude", Put("made.key", b"x1", replaces="1"), Code.DENIED, "overwrite_not_granted"),
        ("claude", Put("elsewhere.key", b"x1"), Code.DENIED, "no_grant"),
        ("claude", Put("made.key", b""), Code.INVALID, "empty_value"),
        ("claude", Generate("made.key", "hex"), Code.INVALID, "unknown_recipe"),
        ("claude", Generate("made.key", "hex:8"), Code.INVALID, "unknown_recipe"),
        ("claude", Generate("made.key", "hex:32", reveal=True), Code.DENIED, "reading_not_granted"),
    ],
)
async def test_what_may_not_be_written_never_reaches_the_vault(
    bench: DeskBench, agent: str, body: Operation, code: Code, reason: str
) -> None:
    """Each refusal has its reason in the audit, and the agent learns no more than the code."""
    assert (await ask(bench, bench.run(agent), body)).code == code
    assert bench.vault.writes == []
    assert [record.reason for record in bench.sink.records] == [reason]


@pytest.mark.parametrize(
    "shown",
    [{"purpose": f"to store {CANARY.decode()}"}, {"name": f"made.{CANARY.decode()}"}, {"replaces": CANARY.decode()}],
)
async def test_a_value_in_the_open_is_refused_and_not_recorded(bench: DeskBench, shown: dict[str, str]) -> None:
    """A write whose name or purpose says the value would leave it in the audit and before people's eyes."""
    body = Put(shown.get("name", "made.key"), CANARY, shown.get("purpose", ""), shown.get("replaces"))
    assert (await ask(bench, bench.run(), body)).code == Code.INVALID
    assert CANARY.decode() not in repr(bench.sink.records)
    assert [record.reason for record in bench.sink.records] == ["value_in_the_open"]


async def test_create_only_does_not_replace(bench: DeskBench) -> None:
    """A second write of a name clashes, and does not say which version is there to who may not replace it."""
    await ask(bench, bench.run(), Put("made.key", b"first"))
    second = await ask(bench, bench.run(), Put("made.key", b"second"))
    assert (second.code, second.version) == (Code.CONFLICT, None)
    assert bench.vault.values["local://agents.made.key"] == b"first"
    assert trail(bench)[-1] == ("access", "put", "refused", "place_differs")


async def test_a_version_is_replaced_only_by_who_names_it(bench: DeskBench) -> None:
    """Who may replace learns which version is there, and replaces that one."""
    clash = await ask(bench, bench.run(), Put("openai.api_key", b"newer"))
    assert (clash.code, clash.version) == (Code.CONFLICT, "7")
    stored = await ask(bench, bench.run(), Put("openai.api_key", b"newer", replaces=clash.version))
    assert (stored.outcome, stored.version) == ("granted", "8")
    late = await ask(bench, bench.run(), Put("openai.api_key", b"too late", replaces="7"))
    assert (late.code, late.version) == (Code.CONFLICT, "8")


async def test_a_generated_value_stays_in_the_broker(bench: DeskBench) -> None:
    """The agent that had it made is told the version and nothing else."""
    made = await ask(bench, bench.run(), Generate("made.key", "hex:32"))
    assert (made.outcome, made.version, made.value) == ("granted", "1", None)
    assert len(bench.vault.values["local://agents.made.key"]) == 64


async def test_a_generated_value_is_shown_to_who_may_read_it(bench: DeskBench) -> None:
    """Under a lease, like any other value."""
    run = bench.run()
    made = await ask(bench, run, Generate("made.mine", "alnum:24", reveal=True))
    assert made.value == bench.vault.values["local://agents.made.mine"]
    assert made.lease is not None
    assert (await ask(bench, run, Renew(made.lease))).outcome == "granted"


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (FailureKind.READ_ONLY, "failed"),
        (FailureKind.FORBIDDEN, "failed"),
        (FailureKind.TIMEOUT, "unknown"),
        (FailureKind.UNREACHABLE, "unknown"),
        (FailureKind.UNKNOWN, "unknown"),
    ],
)
async def test_a_vault_that_fails_is_told_apart_by_what_it_may_have_written(
    bench: DeskBench, kind: FailureKind, state: str
) -> None:
    """Where nobody can know what was written, cached copies are dropped all the same."""
    bench.desk.keep("local://openai", Fetched(b"cached", "7"), 60_000)
    bench.vault.write_failure = ProviderError(kind, "the vault said no")
    result = await ask(bench, bench.run(), Put("openai.api_key", CANARY, replaces="7"))
    assert (result.code, trail(bench)[-1][3]) == (Code.UNAVAILABLE, f"provider_{kind}")
    kept = bench.cache.get("local://openai", 60_000, NOW) is not None
    assert kept == (state == "failed")
    assert bool(bench.write_log.marks("local://openai")) == (state == "unknown")


async def test_a_provider_with_a_defect_costs_one_write(bench: DeskBench) -> None:
    """Whatever it raises; the next write is served."""
    bench.vault.write_failure = RuntimeError(CANARY.decode())
    assert (await ask(bench, bench.run(), Put("made.key", CANARY))).code == Code.UNAVAILABLE
    bench.vault.write_failure = None
    assert (await ask(bench, bench.run(), Put("made.other", CANARY))).outcome == "granted"


# --- crashes -----------------------------------------------------------------------------------------------------


async def _die_after_the_vault_wrote(bench: DeskBench, entry: Entry) -> None:
    """Carry a write as far as the vault, and no further."""
    served = await bench.serve(entry)
    writes = Writes({"local": bench.vault}, asyncio.Event())
    running = asyncio.ensure_future(writes.run())
    writes.add(served.writes)
    begun, _ = await bench.writer.begin(await until(writes.take_made), bench.admission)
    writes.start(begun)
    await until(writes.take_finished)
    running.cancel()


@pytest.mark.parametrize("body", [Put("made.key", CANARY), Generate("made.key", "hex:32")])
async def test_a_write_that_is_claimed_after_a_crash_is_not_made_twice(tmp_path: Path, body: Operation) -> None:
    """The next worker knows its own value from before, also one that it made itself, and says that it is stored."""
    bench = bench_in(tmp_path)
    run = bench.run()
    entry = bench.entry(run, None, body=body)
    await _die_after_the_vault_wrote(bench, entry)
    before = dict(bench.vault.values)
    after = bench_in(tmp_path)  # another process: nothing but the files is the same
    after.vault, after.admission = bench.vault, bench.admission
    result = await ask(after, run, body, entry)
    assert (result.outcome, result.version) == ("granted", "1")
    assert bench.vault.values == before


async def test_somebody_elses_value_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """A run that has the same value written as another did before is told of a clash: no guess is confirmed."""
    bench = bench_in(tmp_path)
    await _die_after_the_vault_wrote(bench, bench.entry(bench.run(), None, body=Put("made.key", CANARY)))
    assert (await ask(bench, bench.run(), Put("made.key", CANARY))).code == Code.CONFLICT


async def test_a_write_whose_answer_was_lost_is_answered_and_not_made_again(bench: DeskBench) -> None:
    """The same entry, claimed once more after all was done."""
    run = bench.run()
    entry = bench.entry(run, None, body=Put("openai.api_key", b"newer", replaces="7"))
    assert (await ask(bench, run, Put("x", b"x"), entry)).version == "8"
    assert (await ask(bench, run, Put("x", b"x"), entry)).version == "8"
    assert len(bench.vault.writes) == 1


async def test_what_a_dead_worker_left_is_settled(tmp_path: Path) -> None:
    """After two minutes the audit says that nobody knows, if need be later, and copies are dropped."""
    bench = bench_in(tmp_path)
    await _die_after_the_vault_wrote(
        bench, bench.entry(bench.run(), None, body=Put("openai.api_key", b"newer", replaces="7"))
    )
    after = bench_in(tmp_path)
    after.desk.keep("local://openai", Fetched(b"older", "7"), 600_000)
    assert after.writer.poll() == []
    after.clock.time += 121_000
    after.sink.is_full = True
    after.writer.poll()
    after.sink.is_full = False
    after.writer.poll()
    after.writer.poll()
    assert [record.event for record in after.sink.records] == ["write_unsettled"]
    assert after.cache.get("local://openai", 600_000, after.clock.now()) is None


async def test_a_write_that_ends_twice_is_followed_twice(tmp_path: Path) -> None:
    """Given up as unknown first, made by the next worker then: what was cached in between is dropped as well."""
    bench = bench_in(tmp_path)
    run = bench.run()
    entry = bench.entry(run, None, body=Put("openai.api_key", b"newer", replaces="7"))
    bench.vault.write_failure = ProviderError(FailureKind.TIMEOUT, "no answer")
    await ask(bench, run, Put("x", b"x"), entry)
    bench.vault.write_failure = None
    bench.desk.keep("local://openai", Fetched(b"older", "7"), 600_000)
    bench.clock.time += 5
    again = bench_in(tmp_path)  # the answer was lost with the worker
    again.vault, again.clock.time = bench.vault, bench.clock.time
    assert (await ask(again, run, Put("x", b"x"), entry)).version == "8"
    bench.writer.poll()
    assert bench.cache.get("local://openai", 600_000, bench.clock.now()) is None


async def test_a_copy_of_a_write_is_not_made(bench: DeskBench) -> None:
    """The queue shows the same envelope under another id: it is refused as a replay, and the vault hears of it once."""
    run = bench.run()
    raw = run.sealed(body=Put("openai.api_key", b"newer", replaces="7"))
    for number in range(3):
        served = await bench.serve(bench.entry(run, raw))
        await bench.finish(served)
        assert len(bench.vault.writes) == 1, number


# --- what follows ------------------------------------------------------------------------------------------------


async def test_holders_are_told_and_their_leases_end(tmp_path: Path) -> None:
    """On the worker that wrote, on another of its host, and on one of another host: copies go, renewals end."""
    bench, beside = bench_in(tmp_path), bench_in(tmp_path)
    far = bench_in(tmp_path / "far")
    runs = {each: each.run("codex") for each in (bench, beside, far)}
    held = {each: await each.ask_one(runs[each], "openai.api_key") for each in runs}
    await ask(bench, bench.run(), Put("openai.api_key", b"newer", replaces="7"))
    (signed,) = bench.affairs.superseding.unpublished.values()
    letters = {
        bench: bench.writer.poll(),
        beside: beside.writer.poll(),
        far: far.affairs.take_control(write_message(signed), far.desk.configuration, NOW),
    }
    for each, run in runs.items():
        (letter,) = letters[each]
        told = notice(run, letter)
        assert (told.event, told.name) == ("secret_rotated", "openai.api_key")
        assert each.cache.get("local://openai", 60_000, NOW) is None
        token = held[each].lease
        assert token is not None
        assert (await ask(each, run, Renew(token))).code == Code.EXPIRED
        assert each.sink.records[-1].reason == "superseded"
    again = far.affairs.take_control(write_message(signed), far.desk.configuration, NOW)
    assert again == []
    assert (await bench.ask_one(runs[bench], "openai.api_key")).value == b"newer"


async def test_a_restarted_worker_still_knows_what_is_older(tmp_path: Path) -> None:
    """A lease of before is not renewed by a worker that was not there when the value was written."""
    bench = bench_in(tmp_path)
    run = bench.run("codex")
    held = await bench.ask_one(run, "openai.api_key")
    await ask(bench, bench.run(), Put("openai.api_key", b"newer", replaces="7"))
    assert held.lease is not None
    after = bench_in(tmp_path)
    assert (await ask(after, run, Renew(held.lease))).code == Code.EXPIRED


async def test_an_announcement_of_somebody_else_is_refused(bench: DeskBench) -> None:
    """Only the broker can have copies dropped."""
    await ask(bench, bench.run(), Put("openai.api_key", b"newer", replaces="7"))
    (signed,) = bench.affairs.superseding.unpublished.values()
    forged = signed[:-1] + bytes([signed[-1] ^ 1])
    desk = bench.desk
    assert bench.affairs.take_control(write_message(forged), desk.configuration, NOW) == []
    assert (bench.sink.records[-1].event, bench.sink.records[-1].reason) == ("decision_refused", "forged")


async def test_a_name_that_nobody_created_is_denied_like_any_unknown_name(bench: DeskBench) -> None:
    """Whether a name exists is not told by another code."""
    result = await bench.ask_one(bench.run("codex"), "made.key")
    assert (result.code, bench.sink.records[-1].reason) == (Code.DENIED, "unknown_secret")


# --- people ------------------------------------------------------------------------------------------------------


async def test_what_was_approved_is_what_is_written(bench: DeskBench) -> None:
    """Another value, or replacing instead of creating, is another question to people."""
    run = bench.run()
    assert (await ask(bench, run, Put("made.guarded", CANARY))).code == Code.APPROVAL_PENDING
    assert bench.vault.writes == []
    (request,) = asked(bench)
    assert (request.action, request.writes) == ("put", "create")
    assert CANARY not in bench.affairs.signed(request)
    decide(bench, request)
    assert (await ask(bench, run, Put("made.guarded", b"another value"))).code == Code.APPROVAL_PENDING
    assert (await ask(bench, run, Put("made.guarded", CANARY))).outcome == "granted"
    assert [value for _, value, _ in bench.vault.writes] == [CANARY]
    assert bench.sink.of("write_started")[0].approver == "alice"
    assert (await ask(bench, run, Put("made.guarded", CANARY))).code == Code.APPROVAL_PENDING  # it was for once


async def test_people_are_not_asked_with_a_live_value(bench: DeskBench) -> None:
    """A run that names a value as the version to replace would have it signed and shown."""
    bench.desk.keep("local://openai", Fetched(CANARY, "7"), 60_000)
    body = Put("made.replaceable", b"something else", replaces=CANARY.decode())
    result = await ask(bench, bench.run(), body)
    assert (result.code, asked(bench)) == (Code.DENIED, [])
    assert CANARY.decode() not in repr(bench.sink.records)


async def test_the_mark_of_a_value_says_nothing_to_anybody_else(bench: DeskBench) -> None:
    """Two runs that write the same value ask with different marks, and no mark is a plain hash."""
    for run in (bench.run(), bench.run()):
        await ask(bench, run, Put("made.guarded", b"guessable"))
    first, second = asked(bench)
    assert first.content != second.content
    assert len(first.content or b"") == 32


async def test_files_are_read_by_another_process(tmp_path: Path) -> None:
    """What one writes into the file of writes another hears, once; the file holds no value."""
    bench = bench_in(tmp_path)
    path = tmp_path.parent / f"{tmp_path.name}-state" / "writes.jsonl"
    other = WriteFile(path, bench.clock.now)
    await ask(bench, bench.run(), Put("made.key", CANARY))
    assert [(note.state, note.version) for note in other.poll()] == [("written", "1")]
    assert other.poll() == []
    assert CANARY not in path.read_bytes()
