"""What the desk releases: for how long, from where, and what it writes down of it."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import NOW, SECRETS, DeskBench

from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.errors import Code
from broker_worker.core.errors import QueueError
from broker_worker.ports import Fetched

HOUR = 3600 * 1000


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    return DeskBench(tmp_path)


async def test_a_granted_name_is_released_with_its_record(bench: DeskBench) -> None:
    """The value goes to the run; the audit is told who, what, why, and not the value."""
    run = bench.run(run_id="run-1", task="triage")
    result = await bench.ask_one(run, "openai.api_key", purpose="call the model")
    assert (result.value, result.version, result.source) == (b"value of openai", "7", "provider")
    (record,) = bench.sink.records
    assert (record.event, record.outcome, record.agent_id, record.run_id) == ("access", "granted", "claude", "run-1")
    assert (record.secret_name, record.purpose, record.task) == ("openai.api_key", "call the model", "triage")
    assert (record.rule, record.provider, record.issuer) == ("policy.yaml:4", "local", "local")
    assert record.policy == bench.desk.configuration.policy.digest


async def test_a_reply_that_was_prepared_is_dropped_if_anything_refuses_it(tmp_path: Path) -> None:
    """A cached value may be sealed while the queue still counts; whoever refuses then, it never leaves."""
    limits = "limits: {secrets: {openai.api_key: {rate: 1/h, burst: 2}}}"
    bench = DeskBench(tmp_path, policy=f"agents: {{claude: {{allow: [openai.api_key, anthropic.api_key]}}}}\n{limits}")
    run, names = bench.run(), ("openai.api_key", "anthropic.api_key")
    assert (await bench.ask(run, *names)).status == "ok"
    assert (await bench.ask(run, *names)).status == "ok"
    reply = await bench.ask(run, *names)
    assert [result.value for result in reply.results] == [None, b"value of anthropic"]
    envelope = run.sealed("anthropic.api_key")
    answers = [(await bench.serve(bench.entry(run, envelope))).answers[0].envelope for _ in range(2)]
    assert [run.open(answers[0]).status, answers[1]] == ["ok", None]
    assert [record.outcome for record in bench.sink.of("access")] == ["granted"] * 4 + ["refused"] + ["granted"] * 2


@pytest.mark.parametrize("error", [QueueError("the connection to the queue broke"), asyncio.CancelledError()])
@pytest.mark.parametrize("hands_over", [False, True])
async def test_what_the_disk_began_with_is_taken_back_if_the_queue_does_not_answer(
    bench: DeskBench, error: BaseException, hands_over: bool
) -> None:
    """Nothing is released, so no crash may leave a record that says so, whether the lane fails or is ended."""
    run = bench.run()
    await bench.ask_one(run, "openai.api_key")
    begun: list[AuditRecord] = []

    def fail() -> None:
        begun.extend(bench.sink.begun)
        raise error

    async def hand_over() -> None:
        raise AssertionError("there is nothing to release")

    bench.admission.before = fail
    entry = bench.entry(run, None, "openai.api_key")
    with pytest.raises(type(error)):
        await bench.desk.serve(bench.desk.open([entry]), bench.admission, hand_over if hands_over else None)
    assert [record.outcome for record in begun] == ["granted"]
    assert bench.sink.begun == ()


async def test_refusals_in_a_row_do_not_have_the_disk_begin_with_releases(tmp_path: Path) -> None:
    """Whoever can cause refusals without end cannot cause two syncs with each."""
    limits = "limits: {secrets: {openai.api_key: {rate: 1/h, burst: 1}}}"
    bench = DeskBench(tmp_path, policy=f"agents: {{claude: {{allow: [openai.api_key]}}}}\n{limits}")
    run = bench.run()
    await bench.ask_one(run, "openai.api_key")
    begun: list[int] = []
    bench.admission.before = lambda: begun.append(len(bench.sink.begun))
    for _ in range(3):
        assert (await bench.ask_one(run, "openai.api_key")).code == Code.RATE_LIMITED
    assert begun == [1, 0, 0]


async def test_what_was_refused_is_answered_also_if_the_rest_is_decided_again(tmp_path: Path) -> None:
    """A change of the rules while another lane read concerns what was not refused; nobody is left without an answer."""
    policy = "agents: {claude: {allow: [openai.api_key]}}\nlimits: {run: {rate: 1/h, burst: 2}}"
    bench = DeskBench(tmp_path, policy=policy)
    run = bench.run()
    await bench.ask_one(run, "openai.api_key")
    entries = [bench.entry(run, None, "openai.api_key") for _ in range(2)]

    async def change() -> None:
        bench.load(policy=policy.replace("[openai.api_key]", "[openai.api_key, anthropic.api_key]"))

    served = await bench.desk.serve(bench.desk.open(entries), bench.admission, change)
    found = {answer.entry.entry_id: run.open(answer.envelope) for answer in served.answers}
    assert [found[entry.entry_id].status for entry in entries] == ["ok", "refused"]
    assert found[entries[1].entry_id].code == Code.RATE_LIMITED


@pytest.mark.parametrize("hands_over", [False, True])
async def test_the_disk_begins_with_a_batch_while_the_queue_counts(bench: DeskBench, hands_over: bool) -> None:
    """Also if another lane is let to read before it is appended; not if it waits for a vault."""
    run, seen = bench.run(), list[int]()
    bench.admission.before = lambda: seen.append(len(bench.sink.begun))
    await bench.ask_one(run, "openai.api_key")  # from the vault

    async def hand_over() -> None:
        """The other lane has nothing to do."""

    entry = bench.entry(run, None, "openai.api_key")
    await bench.desk.serve(bench.desk.open([entry]), bench.admission, hand_over if hands_over else None)
    assert seen == [0, 1]


async def test_what_the_disk_began_with_is_replaced_if_the_queue_refuses(tmp_path: Path) -> None:
    """The record of a release that was not admitted gives way to that of the refusal."""
    limits = "limits: {secrets: {openai.api_key: {rate: 1/h, burst: 1}}}"
    bench = DeskBench(tmp_path, policy=f"agents: {{claude: {{allow: [openai.api_key]}}}}\n{limits}")
    run = bench.run()
    await bench.ask_one(run, "openai.api_key")
    begun: list[AuditRecord] = []
    bench.admission.before = lambda: begun.extend(bench.sink.begun)
    assert (await bench.ask_one(run, "openai.api_key")).code == Code.RATE_LIMITED
    assert [record.outcome for record in begun] == ["granted"]
    assert [record.outcome for record in bench.sink.records] == ["granted", "refused"]
    assert bench.sink.begun == ()


async def test_a_value_that_comes_while_the_queue_counts_is_not_asked_for_again(bench: DeskBench) -> None:
    """Somebody else's fetch ended meanwhile: the request is answered from the cache instead of waiting for another."""
    run = bench.run()
    bench.admission.before = lambda: bench.desk.keep("local://openai", Fetched(b"just fetched"), 1000)
    served = await bench.serve(bench.entry(run, None, "openai.api_key"))
    assert served.waiting == []
    assert run.open(served.answers[0].envelope).results[0].value == b"just fetched"
    assert [(record.outcome, record.source) for record in bench.sink.records] == [("granted", "cache")]


async def test_the_second_time_comes_from_the_cache(bench: DeskBench) -> None:
    """Reply and audit say so, and the vault is not asked again."""
    run = bench.run()
    first, second = [await bench.ask_one(run, "openai.api_key") for _ in range(2)]
    assert [first.source, second.source] == ["provider", "cache"]
    assert [record.source for record in bench.sink.records] == ["provider", "cache"]
    assert bench.vault.calls == [("local://openai",)]


async def test_each_name_of_a_request_says_where_its_value_came_from(bench: DeskBench) -> None:
    """A cached name beside a fetched one is still from the cache."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    reply = await bench.ask(run, "openai.api_key", "anthropic.api_key")
    assert [result.source for result in reply.results] == ["cache", "provider"]
    assert [record.source for record in bench.sink.records[1:]] == ["cache", "provider"]


async def test_a_request_larger_than_the_cache_is_still_answered_whole(tmp_path: Path) -> None:
    """A value that makes room for another one of the same request is not lost."""
    bench = DeskBench(tmp_path, max_entries=1)
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    for _ in range(3):
        reply = await bench.ask(run, "openai.api_key", "anthropic.api_key")
        assert [result.value for result in reply.results] == [b"value of openai", b"value of anthropic"]


@pytest.mark.parametrize(
    ("files", "mint", "asked", "seconds"),
    [
        ({}, {}, {}, 300),
        ({"registry": SECRETS.replace('"local://openai"', '{ref: "local://openai", ttl_seconds: 120}')}, {}, {}, 120),
        ({"registry": SECRETS.replace('"local://openai"', '{ref: "local://openai", ttl_seconds: 9999}')}, {}, {}, 900),
        ({"broker": "provider: {type: local}\ncache: {default_ttl_seconds: 40}"}, {}, {}, 40),
        ({"broker": "provider: {type: local}\ncache: {max_ttl_seconds: 50}"}, {}, {}, 50),
        ({"policy": "agents: {claude: {allow: [{secret: openai.api_key, max_ttl: 1m}]}}"}, {}, {}, 60),
        ({}, {}, {"ttl": 5}, 5),
        ({}, {}, {"ttl": 100_000}, 300),
        ({}, {"ttl": timedelta(seconds=30)}, {}, 30),
    ],
    ids=["default", "entry", "maximum", "own default", "own maximum", "grant", "request", "request too long", "token"],
)
async def test_a_value_lives_as_long_as_the_shortest_of_its_limits(
    tmp_path: Path, files: dict[str, Any], mint: dict[str, Any], asked: dict[str, Any], seconds: int
) -> None:
    """Registry, cache, grant, request and token each cut it; none prolongs it."""
    bench = DeskBench(tmp_path, **files)
    result = await bench.ask_one(bench.run(**mint), "openai.api_key", **asked)
    assert result.expires_at == NOW + seconds * 1000


async def test_a_cached_value_does_not_live_longer_for_being_asked_again(bench: DeskBench) -> None:
    """Its end counts from the fetch, and after it the vault is asked again."""
    run = bench.run()
    await bench.ask(run, "openai.api_key")
    bench.clock.time += 299_000
    again = await bench.ask_one(run, "openai.api_key")
    assert (again.source, again.expires_at) == ("cache", NOW + 300_000)
    bench.clock.time += 1_000
    fresh = await bench.ask_one(run, "openai.api_key")
    assert (fresh.source, fresh.expires_at) == ("provider", NOW + 600_000)


async def test_what_the_vault_does_not_have_is_remembered_briefly(bench: DeskBench) -> None:
    """For ten seconds nobody makes the vault look again; then it may be there."""
    run = bench.run()
    del bench.vault.values["local://openai"]
    for _ in range(3):
        assert (await bench.ask_one(run, "openai.api_key")).code == Code.UNAVAILABLE
    assert len(bench.vault.calls) == 1
    bench.vault.values["local://openai"] = b"there now"
    bench.clock.time += 10_000
    assert (await bench.ask_one(run, "openai.api_key")).value == b"there now"
    assert {record.reason for record in bench.sink.records if record.outcome == "refused"} == {"provider_not_found"}


async def test_list_names_only_what_this_run_may_have(bench: DeskBench) -> None:
    """Policy and scope apply, and the question is recorded."""
    assert (await bench.ask(bench.run("codex"))).names == ("github.read_token", "openai.api_key")
    assert (await bench.ask(bench.run("codex", scope=["github.*"]))).names == ("github.read_token",)
    assert (await bench.ask(bench.run("random-script"))).names == ()
    assert [(record.action, record.outcome) for record in bench.sink.records] == [("list", "granted")] * 3


async def test_some_names_granted_and_some_not_is_partial(bench: DeskBench) -> None:
    """Each name has its own outcome; one that is unknown and one that is another agent's look the same."""
    reply = await bench.ask(bench.run(), "openai.api_key", "github.read_token", "no.such.name")
    assert (reply.status, [(r.outcome, r.code, r.retry_after) for r in reply.results]) == (
        "partial",
        [("granted", None, None), ("refused", Code.DENIED, None), ("refused", Code.DENIED, None)],
    )
    assert [record.reason for record in bench.sink.records[1:]] == ["no_grant", "no_grant"]


async def test_a_name_that_is_granted_but_not_in_the_registry_is_denied_like_any_other(tmp_path: Path) -> None:
    """The reason is in the audit only."""
    bench = DeskBench(tmp_path, policy="agents: {claude: {allow: [not.there]}}")
    assert (await bench.ask_one(bench.run(), "not.there")).code == Code.DENIED
    assert bench.sink.records[0].reason == "unknown_secret"


@pytest.mark.parametrize("padding", range(-300, 40, 17))
async def test_values_that_together_barely_fit_or_do_not_never_break_the_desk(tmp_path: Path, padding: int) -> None:
    """Around the size cap the answer is either whole or `too_large`."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    bench.vault.values["local://openai"] = b"x" * (128 * 1024)
    bench.vault.values["local://anthropic"] = b"y" * (126_800 + padding)
    reply = await bench.ask(run, "openai.api_key", "anthropic.api_key")
    assert reply.status == "ok" or reply.code == Code.TOO_LARGE


async def test_the_largest_plaintext_there_can_be_is_either_sealed_or_refused(bench: DeskBench) -> None:
    """At every length around the cap, to the byte."""
    run, outcomes = bench.run(), set()
    for size in range(126_450, 126_760):
        bench.cache.clear()
        bench.vault.values["local://openai"] = b"x" * (128 * 1024)
        bench.vault.values["local://anthropic"] = b"y" * size
        bench.admission.forget()
        bench.desk._verdicts._backstop.__init__()  # type: ignore[misc]  # limits are not what this is about
        reply = await bench.ask(run, "openai.api_key", "anthropic.api_key")
        outcomes.add(reply.code or reply.status)
    assert outcomes == {"ok", Code.TOO_LARGE}
