"""From bytes to a proven identity: what opens, what is junk, and that strangers do not hold up those who are known."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, DeskBench, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Reply, encode_request
from agent_sdk.wire.sealing import Kind, Sealer, key_id
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.pipeline.opening import UNPROVEN, Intake, Opened, Opener
from broker_worker.pipeline.session import start_session


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    return DeskBench(tmp_path)


def proved(opener: Opener, limit: int) -> Opened:
    """What becomes of the strangers whose turn it is."""
    opened = Opened()
    opener.open_cold(limit, NOW, opened)
    return opened


async def outcome(bench: DeskBench, run: Run, raw: bytes, agent: str | None = None) -> tuple[Reply | None, str | None]:
    """What a run is answered, and the reason in the audit."""
    before = len(bench.sink.records)
    (answer,) = await bench.finish(await bench.serve(bench.entry(run, raw, agent=agent)))
    records = bench.sink.records[before:]
    reason = records[0].reason if records else None
    return (None if answer.envelope is None else run.open(answer.envelope)), reason


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "known peer"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda run: b"", "malformed"),
        (lambda run: b"\xc1" * 1000, "malformed"),
        (lambda run: b"\x91" * 100_000, "malformed"),
        (lambda run: bytes(256 * 1024 + 1), "too_large"),
        (lambda run: run.sealed("openai.api_key") + b"\x00", "malformed"),
        (lambda run: run.sealed("openai.api_key")[:-1], "malformed"),
        (lambda run: run.sealed("openai.api_key")[:-1] + b"\x00", "cannot_open"),
        (lambda run: run.seal_bytes(b""), "malformed"),
        (lambda run: run.seal_bytes(b"\x81" * 5000), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("UPPER"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("ключ"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("a..b"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("a", "a"))), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request(*[f"n{i}" for i in range(65)]))), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("a", issued_at=NOW, deadline=NOW))), "malformed"),
    ],
)
async def test_what_does_not_follow_the_contract_is_junk(bench: DeskBench, make: Any, reason: str, known: bool) -> None:
    """It is acknowledged, not answered, recorded, and the next good request of the same run is served."""
    run = bench.run()
    if known:
        await bench.ask(run, "openai.api_key")
    assert await outcome(bench, run, make(run)) == (None, reason)
    record = bench.sink.records[-1]
    assert (record.event, record.agent_id, record.run_id) == ("unauthenticated", "claude", None)
    assert (await bench.ask(run, "openai.api_key")).status == "ok"


async def test_a_request_without_names_is_junk(bench: DeskBench) -> None:
    """A resolve of nothing does not even decode; the SDK never sends it."""
    run = bench.run()
    raw = encode_request(run.request("x")).replace(b"\xa5names\x91\xa1x", b"\xa5names\x90")
    assert await outcome(bench, run, run.seal_bytes(raw)) == (None, "malformed")


async def test_a_message_that_was_moved_to_another_stream_does_not_open(bench: DeskBench) -> None:
    """The stream's name is part of what is sealed."""
    run = bench.run()
    assert await outcome(bench, run, run.sealed("openai.api_key"), agent="codex") == (None, "cannot_open")


async def test_a_reply_is_not_a_request(bench: DeskBench) -> None:
    """An envelope of another kind is junk before any key is touched."""
    run = bench.run()
    sealer = Sealer(Kind.REPLY, bytes(32), bytes(8), run.credential.run_public_key, run.requests)
    assert await outcome(bench, run, sealer.seal(b"x", bytes(24))) == (None, "not_a_request")


async def test_a_request_to_an_intake_key_of_another_broker_is_junk(bench: DeskBench) -> None:
    """Nothing can be opened with a key that is not there."""
    other = DeskBench(bench._folder)
    keys = start_session(bytes(32), "x", NOW, bytes([77]) * 32)
    other.intake = Intake(keys.public, keys.secret)
    assert await outcome(bench, other.run(), other.run().sealed("a")) == (None, "unknown_intake_key")


async def test_a_run_key_of_low_order_is_junk(bench: DeskBench) -> None:
    """A point for which no exchange is possible is refused, not computed with."""
    sealer = Sealer(Kind.REQUEST, bytes(32), key_id(bench.intake.public), bytes(32), "sb:req:{claude}")
    assert await outcome(bench, bench.run(), sealer.seal(b"x", bytes(24))) == (None, "bad_run_key")


@pytest.mark.parametrize(
    ("mint", "agent", "code", "reason"),
    [
        ({"issuer_seed": bytes([9]) * 32}, "claude", Code.UNAUTHENTICATED, "bad_token"),
        ({"ttl": timedelta(hours=9)}, "claude", Code.UNAUTHENTICATED, "bad_token"),
        ({}, "nobody", Code.UNAUTHENTICATED, "bad_token"),
    ],
    ids=["another issuer", "too long a life", "an agent nobody speaks for"],
)
async def test_a_token_that_is_not_valid_is_answered_and_recorded(
    bench: DeskBench, mint: dict[str, Any], agent: str, code: Code, reason: str
) -> None:
    """Its sender holds the key that it is answered to, so it may learn that much."""
    run = bench.run(agent, **mint)
    reply, why = await outcome(bench, run, run.sealed("openai.api_key"))
    assert reply is not None
    assert (reply.code, why) == (code, reason)


async def test_a_token_of_another_run_is_refused(bench: DeskBench) -> None:
    """A stolen token is worth nothing without its key; nor does a remembered peer lend its name."""
    run, thief = bench.run(), bench.run()
    await bench.ask(run, "openai.api_key")
    reply, reason = await outcome(bench, thief, thief.sealed("openai.api_key", token=run.credential.token))
    assert reply is not None
    assert (reply.code, reason) == (Code.UNAUTHENTICATED, "run_key_disagrees")


async def test_a_known_peer_with_a_bad_token_is_refused(bench: DeskBench) -> None:
    """That it was verified once does not vouch for its next token."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    head, signature = run.credential.token[:-10], run.credential.token[-10:]
    forged = head + ("A" if signature[0] != "A" else "B") + signature[1:]
    reply, reason = await outcome(bench, run, run.sealed("openai.api_key", token=forged))
    assert reply is not None
    assert (reply.code, reason) == (Code.UNAUTHENTICATED, "bad_token")


async def test_a_token_not_valid_yet_is_refused_until_it_is(bench: DeskBench) -> None:
    """More than the skew ahead it does not count; within, it does."""
    bench.clock.time += 40_000
    run = bench.run()
    bench.clock.time -= 40_000
    reply, reason = await outcome(bench, run, run.sealed("openai.api_key"))
    assert reply is not None
    assert (reply.code, reason) == (Code.UNAUTHENTICATED, "bad_token")
    bench.clock.time += 10_000
    reply, reason = await outcome(bench, run, run.sealed("openai.api_key"))
    assert reply is not None
    assert reply.status == "ok"


async def test_strangers_are_opened_a_few_a_turn_and_by_turns(bench: DeskBench) -> None:
    """One agent's pile of unproven messages leaves the next agent's first message at the front."""
    pile = [bench.entry(run, None, "openai.api_key") for run in (bench.run() for _ in range(20))]
    late = bench.entry(bench.run("codex"), None, "openai.api_key")
    opener = bench.desk.opener
    opener.open([*pile, late], NOW)
    turns = [{ask.entry.agent_id for ask in proved(opener, 4).asks} for _ in range(2)]
    assert turns[0] == {"claude", "codex"}
    assert turns[1] == {"claude"}


async def test_known_peers_do_not_wait_behind_strangers(bench: DeskBench) -> None:
    """They are opened in the very turn in which they came."""
    known = bench.run("codex")
    await bench.ask(known, "openai.api_key")
    pile = [bench.entry(bench.run(), None, "openai.api_key") for _ in range(50)]
    opened = bench.desk.opener.open([*pile, bench.entry(known, None, "openai.api_key")], NOW)
    assert [ask.entry.agent_id for ask in opened.asks] == ["codex"]


async def test_unproven_messages_are_bounded_by_agent(tmp_path: Path) -> None:
    """Who sends more is told nothing; everybody else's wait as before."""
    bench = DeskBench(tmp_path, max_cold=3)
    opened = bench.desk.opener.open([bench.entry(bench.run(), None, "a") for _ in range(5)], NOW)
    assert [reason for _, reason in opened.junk] == ["too_many_unproven"] * 2
    assert not bench.desk.opener.open([bench.entry(bench.run("codex"), None, "a")], NOW).junk
    assert len(proved(bench.desk.opener, 10).asks) == 4


async def test_made_up_runs_are_not_answered_without_end(bench: DeskBench) -> None:
    """Each answer would leave a stream on the queue; other agents' strangers, and a known run, are still told."""
    known = bench.run()
    await bench.ask(known, "openai.api_key")
    made_up = [bench.run() for _ in range(UNPROVEN.burst + 3)]
    askers = [*made_up, bench.run("codex"), known]
    entries = [bench.entry(run, run.sealed("a", token="made.up.token")) for run in askers]
    bench.desk.opener.open(entries, NOW)
    opened = proved(bench.desk.opener, len(entries))
    assert {ask.code for ask in opened.asks} == {Code.UNAUTHENTICATED}
    told = [ask.entry.entry_id for ask in opened.asks]
    assert sorted(told) == sorted(each.entry_id for each in [*entries[: UNPROVEN.burst], *entries[-2:]])
    assert [reason for _, reason in opened.junk] == ["bad_token"] * 3


async def test_a_first_burst_of_one_run_costs_one_verification(
    bench: DeskBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its first message has opened, the rest of the pile is cheap and goes through in the same turn."""
    run, verified = bench.run(), list[str]()
    verify = bench.desk.opener.verifier.verify

    def noting(token: str, now: int) -> RunIdentity:
        verified.append(token)
        return verify(token, now)

    monkeypatch.setattr(bench.desk.opener.verifier, "verify", noting)
    bench.desk.opener.open([bench.entry(run, None, "openai.api_key") for _ in range(100)], NOW)
    opened = proved(bench.desk.opener, 4)
    assert (len(opened.asks), len(verified)) == (100, 1)


async def test_a_new_intake_key_is_understood_beside_the_old_one(bench: DeskBench) -> None:
    """During the overlap both open; when the old one is gone its requests are junk."""
    old_run, old = bench.run(), bench.intake
    keys = start_session(bytes(32), "x", NOW, bytes([78]) * 32)
    new = bench.intake = Intake(keys.public, keys.secret)
    new_run = bench.run()
    bench.desk.opener.replace_intakes({key_id(each.public): each for each in (old, new)})
    assert (await bench.ask(old_run, "openai.api_key")).status == "ok"
    assert (await bench.ask(new_run, "openai.api_key")).status == "ok"
    bench.desk.opener.replace_intakes({key_id(new.public): new})
    assert await outcome(bench, old_run, old_run.sealed("openai.api_key")) == (None, "unknown_intake_key")
    assert (await bench.ask(new_run, "openai.api_key")).status == "ok"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_changed_byte_ever_gets_through(bench: DeskBench, data: st.DataObject) -> None:
    """Whatever is done to an envelope, a stranger's or a known peer's, there is no answer and no crash."""
    run = bench.run() if data.draw(st.booleans(), "stranger") else _known(bench)
    raw = bytearray(run.sealed("openai.api_key", purpose="p"))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    reply, _ = await outcome(bench, run, bytes(raw))
    assert reply is None


_RUNS: dict[int, Run] = {}


def _known(bench: DeskBench) -> Run:
    """One run a bench, so that it becomes known."""
    return _RUNS.setdefault(id(bench), bench.run())


async def test_random_bytes_are_junk(bench: DeskBench) -> None:
    """A thousand of them in a batch: one record now, one with the count."""
    entries = [bench.entry(bench.run("codex"), secrets.token_bytes(100)) for _ in range(3)]
    entries += [bench.entry(bench.run(), secrets.token_bytes(number)) for number in range(1000)]
    served = await bench.serve(*entries)
    assert all(answer.envelope is None for answer in served.answers)
    assert len(served.answers) == len(entries)
    assert len(bench.sink.records) <= 4
