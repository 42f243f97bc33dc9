"""The proxy and callers that mean harm: nobody's limits are lifted, nobody's record is lost, no token leaves."""

import asyncio
import base64
import json
import time
from pathlib import Path

import pytest
from desk_workbench import until
from egress_upstream import Authority, Received
from egress_workbench import ROUTE, SECRET, Bench, Got, open_bench

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Call
from broker_worker.egress import limits, proxy
from broker_worker.egress.recording import Recorder


def code(got: Got) -> tuple[int, str]:
    """The status and the code of a refusal."""
    return got.status, json.loads(got.body)["code"] if got.status != 200 else ""


def asked(bench: Bench) -> int:
    """How often the broker was asked for a value."""
    return len([request for request in bench.desk.requests if request.operation == "resolve"])


def made_up(number: int) -> dict[str, str]:
    """A token of nobody."""
    return {"Authorization": f"Bearer a.b{number}.c"}


async def test_made_up_proofs_do_not_ask_the_broker_without_end(bench: Bench) -> None:
    """A proof beside a token that the broker has not accepted yet does not lift the limit on guesses."""
    bench.desk.refused[SECRET] = Code.UNAUTHENTICATED
    for number in range(100):
        await bench.call(headers={**made_up(number), "Workload-Proof-Token": f"a.b{number}.c"})
    assert asked(bench) < 80


async def test_made_up_tokens_do_not_lift_a_runs_rate(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens of nobody are shown, the rate of a run is remembered."""
    monkeypatch.setattr(limits, "_MAX_KEYS", 4)
    async with open_bench(tmp_path, authority, text=ROUTE + "      rate: 1/h\n") as bench:
        assert [(await bench.call()).status for _ in range(2)] == [200, 429]
        bench.desk.refused[SECRET] = Code.UNAUTHENTICATED
        for number in range(20):
            assert (await bench.call(headers=made_up(number))).status in {401, 429}
        assert code(await bench.call()) == (429, "rate_limited")


async def test_made_up_tokens_do_not_fill_the_records(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that were refused here are recorded for runs that the broker knows; of others a few."""
    noted: list[tuple[str, Call]] = []
    monkeypatch.setattr(Recorder, "note", lambda _, subject, call: noted.append((subject.token, call)))
    assert (await bench.call()).status == 200
    for number in range(60):
        assert code(await bench.call("/openai/no", headers=made_up(number))) == (403, "not_allowed")
    assert code(await bench.call("/openai/no")) == (403, "not_allowed")

    def faults() -> list[str]:
        return [token for token, call in noted if call.fault]

    await until(lambda: faults()[-1:] == [bench.run.token])  # noted after it was answered
    assert 1 < len(faults()) < 30


@pytest.mark.parametrize("place", ["query", "path", "header"])
async def test_the_token_does_not_leave_this_host(bench: Bench, place: str) -> None:
    """Where it stands a second time, in a place that would go on to the service, the call is refused."""
    token = bench.run.token
    path = {"query": f"/openai/v1/f?key={token}", "path": f"/openai/v1/{token}"}.get(place, "/openai/v1/f")
    got = await bench.call(path, headers={"X-Vault-Token": f"Bearer {token}"} if place == "header" else {})
    assert code(got) == (400, "token_misplaced")
    assert not bench.upstream.received


async def test_a_call_does_not_outlast_what_can_be_recorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker records no calls of a run that ended long ago, so a call ends soon after its run's token does."""
    monkeypatch.setattr(proxy, "_AFTER_MS", 500)

    async def silent(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    bench.upstream.behave["/v1/slow"] = silent
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time())}).encode()).decode().rstrip("=")
    async with asyncio.timeout(10):
        got = await bench.call("/openai/v1/slow", headers={"Authorization": f"Bearer a.{claims}.c"})
    assert code(got) == (504, "timeout")
    assert (await bench.recorded(1))[0].fault == "timeout"


async def test_an_answer_is_not_asked_for_in_parts(bench: Bench) -> None:
    """Parts of an answer that are asked for one by one could each hold a part of the value, which is not found."""
    headers = {"Range": "bytes=0-3", "If-Range": '"x"', "Content-Range": "bytes 0-1/2"}
    assert (await bench.call("/openai/v1/f", "POST", headers=headers, data=b"xy")).status == 200
    (request,) = bench.upstream.received
    assert [request.header(name) for name in ("range", "if-range", "content-range")] == [None, None, "bytes 0-1/2"]


@pytest.mark.parametrize(
    "name", ["X-Original-Path", "X-Override-URL", "X-HTTP-Path-Override", "X-Envoy-Original-Path", "X-Original-Host"]
)
async def test_no_header_names_another_path_or_host(bench: Bench, name: str) -> None:
    """What servers and proxies take in place of the request line or of Host is refused."""
    assert code(await bench.call(headers={name: "/admin"})) == (400, "header_refused")
