"""What the proxy asks the broker, how long it remembers, and what it does when the broker says no or nothing."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from desk_workbench import until
from egress_upstream import Authority, answer
from egress_workbench import ROUTE, SECRET, Bench, Got, open_bench
from structlog.testing import capture_logs

from agent_sdk.credential import RunCredential
from agent_sdk.masking import Masker
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from agent_sdk.wire.errors import Code
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.core.limits import Rate
from broker_worker.egress import recording, scrubbing, serving, values
from broker_worker.egress.serving import Egress


def code(got: Got) -> tuple[int, str]:
    """The status and the code of a refusal."""
    assert got.headers["Content-Type"] == "application/problem+json"
    return got.status, json.loads(got.body)["code"]


def asked(desk: FakeDesk) -> int:
    """How often a value was asked for."""
    return len([each for each in desk.requests if each.operation == "resolve"])


async def test_a_run_is_asked_for_once_a_minute(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of one run on one route share a value for a moment, many at once as well; another run has its own."""
    assert {got.status for got in await asyncio.gather(*(bench.call() for _ in range(10)))} == {200}
    assert (await bench.call()).status == 200
    assert asked(bench.desk) == 1
    other = bench.auth(bench.desk.credential("codex"))
    assert (await bench.call(headers=other)).status == 200
    assert asked(bench.desk) == 2
    monkeypatch.setattr(values, "REMEMBERED_SECONDS", 0.0)
    third = bench.auth(bench.desk.credential("grok"))
    assert [(await bench.call(headers=third)).status for _ in range(2)] == [200, 200]
    assert asked(bench.desk) == 4


async def test_what_looks_for_a_value_is_made_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs that are lent one value share what keeps it out of answers; another value has its own."""
    made: list[str] = []

    def noted(found: dict[str, bytes]) -> Masker:
        made.extend(found)
        return Masker(found)

    monkeypatch.setattr(scrubbing, "Masker", noted)
    for agent in ("a", "b", "c"):
        assert (await bench.call(headers=bench.auth(bench.desk.credential(agent)))).status == 200
    assert made == [SECRET]
    bench.desk.values[SECRET] = "sk-another-9XbQ27"
    bench.upstream.says("/v1/said", answer(b"sk-another-9XbQ27"))
    got = await bench.call("/openai/v1/said", headers=bench.auth(bench.desk.credential("d")))
    assert (got.body, len(made)) == (b"[masked openai.api_key]", 2)


async def test_a_value_is_not_used_past_its_lease(bench: Bench) -> None:
    """When the lease is over the value is asked for again."""
    bench.desk.ttl = timedelta(seconds=30)
    await bench.call()
    bench.desk.advance(timedelta(seconds=31))
    await bench.call()
    assert asked(bench.desk) == 2


async def test_a_proof_is_for_one_call(bench: Bench) -> None:
    """A call with a proof of possession is asked for by itself, with that proof, and serves no call without."""
    for proof in ("a.b.c", "d.e.f"):
        assert (await bench.call(headers={"Workload-Proof-Token": proof})).status == 200
    assert (await bench.call(headers={"Workload-Proof-Token": "a.b.another"})).status == 401
    assert (await bench.call()).status == 200
    subjects = [each.subject for each in bench.desk.requests if each.operation == "resolve" and each.subject]
    assert [subject.proof for subject in subjects] == ["a.b.c", "d.e.f", None]
    assert all(request.header("workload-proof-token") is None for request in bench.upstream.received)
    assert (await bench.call(headers={"Workload-Proof-Token": "not one"})).status == 401


async def test_what_is_revoked_is_refused_at_once(bench: Bench) -> None:
    """The broker's notice ends what is remembered: the very next call is refused."""
    assert (await bench.call()).status == 200
    bench.desk.revoke(SECRET)
    assert code(await bench.call()) == (403, "revoked")
    assert len(bench.upstream.received) == 1


@pytest.mark.parametrize(
    ("refused", "found"),
    [
        (Code.DENIED, (403, "denied")),
        (Code.REVOKED, (403, "revoked")),
        (Code.UNAUTHENTICATED, (401, "unauthenticated")),
        (Code.EXPIRED, (401, "unauthenticated")),
        (Code.APPROVAL_DENIED, (403, "approval_denied")),
        (Code.APPROVAL_EXPIRED, (403, "approval_expired")),
        (Code.UNAVAILABLE, (503, "unavailable")),
        (Code.AUDIT_UNAVAILABLE, (503, "audit_unavailable")),
        (Code.INVALID, (502, "invalid")),
        (Code.TOO_LARGE, (502, "invalid")),
    ],
)
async def test_what_the_broker_refuses(bench: Bench, refused: Code, found: tuple[int, str]) -> None:
    """Each refusal has its status and code, is remembered for a moment, and is recorded unless nobody asked."""
    bench.desk.refused[SECRET] = refused
    assert [code(await bench.call()) for _ in range(3)] == [found] * 3
    assert asked(bench.desk) == 1
    assert not bench.upstream.received
    if found[0] != 401:
        (call, *_) = await bench.recorded(3)
        assert (call.fault, call.status) == (found[1], None)


async def test_a_limit_says_when_to_try_again(bench: Bench) -> None:
    """The broker's limit is a 429 with its own time."""
    bench.desk.rate_limited[SECRET] = 2.5
    got = await bench.call()
    assert (code(got), got.headers["Retry-After"]) == ((429, "rate_limited"), "3")


async def test_people_are_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits a moment for people to approve; then it is refused for now, and served later."""
    bench.desk.needs_approval.add(SECRET)
    calling = asyncio.create_task(bench.call())
    await until(lambda: bool(bench.desk.approvals))
    bench.desk.approve()
    assert (await calling).status == 200
    monkeypatch.setattr(values, "APPROVAL_SECONDS", 0.2)
    other = bench.auth(bench.desk.credential("codex"))
    got = await bench.call(headers=other)
    assert (code(got), got.headers["Retry-After"]) == ((403, "approval_pending"), "15")
    assert json.loads(got.body)["approvals"] == [bench.desk.approvals[-1].approval_id]
    bench.desk.approve()
    assert (await bench.call(headers=other)).status == 200


async def test_guesses_do_not_use_up_the_proxys_own_limits(bench: Bench) -> None:
    """Tokens that the broker has not accepted yet are asked for so often and no more; a known run goes on."""
    assert (await bench.call()).status == 200
    bench.desk.refused[SECRET] = Code.UNAUTHENTICATED
    found = [
        await bench.call(
            headers={
                "Authorization": f"Bearer a.b{number}.c",
                **({"Workload-Proof-Token": f"a.{number}.b"} if number % 2 else {}),
            }
        )
        for number in range(100)
    ]
    assert {got.status for got in found} == {401, 429}
    assert asked(bench.desk) < 80
    assert (await bench.call()).status == 200


async def test_without_a_record_there_is_no_use(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While reports fail for longer than a moment calls are refused; afterwards what waited is recorded."""
    monkeypatch.setattr(recording, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(recording, "_REPORT_SECONDS", 0.1)
    monkeypatch.setattr(recording, "_AGAIN_SECONDS", 0.02)
    answer = bench.desk.answer
    failing = True

    def without_reports(envelope: bytes, agent_id: str) -> bytes | None:
        bench.desk.silent = False
        found = answer(envelope, agent_id)
        if failing and bench.desk.requests[-1].operation == "report":
            del bench.desk.calls[:]
            return None
        return found

    monkeypatch.setattr(bench.desk, "answer", without_reports)
    async with asyncio.timeout(10):
        served = 0
        while (got := await bench.call()).status == 200:
            served += 1
            await asyncio.sleep(0.02)
    assert code(got) == (503, "audit_unavailable")
    assert served
    failing = False
    calls = await bench.recorded(served)
    assert [call.status for call in calls if call.status] == [200] * served

    async def is_served() -> bool:
        return (await bench.call()).status == 200

    await until(is_served)


async def test_calls_are_reported_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a run go in one report, as many as one takes; what is left is recorded when the proxy ends."""
    monkeypatch.setattr(recording, "GATHER_SECONDS", 60)
    for _ in range(3):
        await bench.call()
    assert not bench.desk.calls
    for number in (30, 31):
        await asyncio.gather(*(bench.call() for _ in range(number)))
    assert len(await bench.recorded(64)) == 64
    reports = [each for each in bench.desk.requests if each.operation == "report"]
    assert [len(each.names) for each in reports] == [64]
    await bench.call()
    bench.egress.stop()
    await bench.recorded(65)


async def test_reports_of_many_runs_leave_room_for_questions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are busy, reports keep below what the proxy may ask, and then hold more calls each."""
    monkeypatch.setattr(recording, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(recording, "REPORTS", Rate(60, 60_000, 2))
    for _ in range(5):
        await bench.call()
    await bench.recorded(5)
    assert len([each for each in bench.desk.requests if each.operation == "report"]) <= 4


async def test_a_call_in_flight_ends_in_peace(tmp_path: Path, authority: Authority) -> None:
    """A proxy that is told to stop takes no more calls, ends idle connections, and lets calls in flight end."""
    hold = asyncio.Event()

    async def wait(_: object, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    async with open_bench(tmp_path, authority) as bench:
        bench.upstream.behave["/v1/wait"] = wait
        idle, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: localhost:{bench.port}\r\n\r\n".encode())
        assert (await idle.readuntil(b"}")).startswith(b"HTTP/1.1 404")
        calling = asyncio.create_task(bench.call("/openai/v1/wait"))
        await until(lambda: bool(bench.upstream.received))
        bench.egress.stop()
        assert await asyncio.wait_for(idle.read(), 10) == b""
        writer.close()

        async def is_closed() -> bool:
            try:
                _, another = await asyncio.open_connection("127.0.0.1", bench.port)
            except ConnectionError:
                return True
            another.close()
            return False

        await until(is_closed)
        hold.set()
        assert (await calling).body == b"done"


async def test_the_proxys_own_credential_is_replaced(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new credential in its file is taken while calls go on; what was remembered is asked for anew."""
    monkeypatch.setattr(serving, "_LOOK_SECONDS", 0.02)
    desk = FakeDesk({SECRET: "sk-0123456789"})
    file, given = tmp_path / "egress.yaml", tmp_path / "credential"
    file.write_text(ROUTE.format(port=1, ca=authority.file))
    given.touch(mode=0o600)
    given.write_text(desk.credential("egress").to_json())
    monkeypatch.setenv("SECRET_BROKER_CREDENTIAL_FILE", str(given))
    seen: list[str] = []

    def connect(credential: RunCredential) -> FakeAsyncSecretBroker:
        seen.append(credential.run_id)
        return FakeAsyncSecretBroker(desk=desk, agent_id="egress")

    egress = Egress(file, port=0, connect=connect)
    running = asyncio.create_task(egress.run(lambda _: None))
    fresh = desk.credential("egress")
    with capture_logs() as said:
        given.write_text("half")
        await until(lambda: "egress_credential_unusable" in {each["event"] for each in said})
    given.write_text(fresh.to_json())
    await until(lambda: len(seen) == 2)
    assert seen[1] == fresh.run_id
    egress.stop()
    await running


async def test_a_proxy_whose_run_is_over_ends(tmp_path: Path, authority: Authority) -> None:
    """Without a new credential the proxy ends before its own is over, and says why."""
    desk = FakeDesk()
    file = tmp_path / "egress.yaml"
    file.write_text(ROUTE.format(port=1, ca=authority.file))
    credential = desk.credential("egress")
    ended = RunCredential.from_json(json.dumps({**json.loads(credential.to_json()), "expires_at": desk.clock() + 1000}))
    egress = Egress(file, ended, port=0, connect=lambda _: FakeAsyncSecretBroker(desk=desk, agent_id="egress"))
    with pytest.raises(SetupError, match="own run is over"):
        await asyncio.wait_for(egress.run(lambda _: None), 10)


async def test_a_changed_file_holds_at_once(tmp_path: Path, authority: Authority) -> None:
    """Routes change while the proxy runs; a file that is not valid changes nothing."""
    async with open_bench(tmp_path, authority, watch=True) as bench:
        assert (await bench.call()).status == 200
        text = bench.file.read_text()
        with capture_logs() as said:
            bench.file.write_text(text.replace("egress:", "egres:"))
            bench.changed.set()
            await until(lambda: "egress_config_rejected" in {each["event"] for each in said})
        assert (await bench.call()).status == 200
        bench.file.write_text(text.replace("    openai:", "    other:"))
        bench.changed.set()

        async def is_served() -> bool:
            return (await bench.call("/other/v1/models")).status == 200

        await until(is_served)
        assert (await bench.call()).status == 404


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    """A file of certificates that is not there, or holds none, is an error at the start, with its line."""
    file = tmp_path / "egress.yaml"
    for place in (tmp_path / "none.pem", file):
        file.write_text(ROUTE.format(port=1, ca=place))

        async def start() -> None:
            await Egress(file, FakeDesk().credential("egress"), port=0).run(lambda _: None)

        with pytest.raises(ConfigError, match=r"egress.yaml:3: `ca_file` of `openai` cannot be used"):
            asyncio.run(start())


async def test_a_port_that_is_taken(bench: Bench) -> None:
    """Two proxies at one port: the second says so."""
    second = Egress(bench.file, bench.desk.credential("egress"), port=bench.port)
    with pytest.raises(SetupError, match="cannot be used"):
        await second.run(lambda _: None)


async def test_a_proxy_that_can_follow_its_file_no_longer_ends(tmp_path: Path, authority: Authority) -> None:
    """Rather than go on with what an operator believes is gone; who started it starts it again."""

    async def broken(_folders: Sequence[Path], _changed: asyncio.Event) -> None:
        raise FileNotFoundError(2, "gone")

    async with open_bench(tmp_path, authority) as bench:
        other = Egress(
            bench.file,
            bench.desk.credential("egress"),
            port=0,
            connect=lambda _: FakeAsyncSecretBroker(desk=bench.desk, agent_id="egress"),
        )
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(other.run(lambda _: None, broken), 10)
