"""A call by the proxy: what reaches the upstream, and what comes back."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, SECRET, VALUE, Bench, open_bench

from agent_sdk.wire.static_tokens import mint


async def test_the_value_goes_where_the_route_says(bench: Bench) -> None:
    """The upstream gets the value and its own Host; the run's token stays here."""
    got = await bench.call("/openai/v1/chat/completions?n=1&n=%2e", "POST", data=b"question")
    assert (got.status, got.body) == (200, b"echo:question")
    (request,) = bench.upstream.received
    assert request.line == "POST /v1/chat/completions?n=1&n=%2e HTTP/1.1"
    assert request.header("authorization") == f"Bearer {VALUE}"
    assert request.header("host") == f"localhost:{bench.upstream.port}"
    assert request.header("accept-encoding") == "identity"
    assert bench.run.token not in str(request)


async def test_the_broker_is_asked_for_the_run_and_told_of_the_call(bench: Bench) -> None:
    """The proxy asks on behalf of the run that called, by the way `proxy`, and every call is recorded."""
    await bench.call("/openai/v1/chat/completions?key=hidden", "POST", data=b"12345")
    (call,) = await bench.recorded(1)
    assert (call.route, call.name, call.host, call.method) == ("openai", SECRET, "localhost", "POST")
    assert (call.path, call.status, call.fault, call.sent, call.received) == ("/v1/**", 200, None, 5, 10)
    asked, told = bench.desk.requests
    assert (asked.names, asked.deliver, asked.purpose) == ((SECRET,), "proxy", "egress openai")
    for request in (asked, told):
        assert request.subject is not None
        assert request.subject.token == bench.run.token


KEY_PLACES = [
    ("authorization", "bearer {}"),
    ("Authorization", "token {}"),
    ("X-Api-Key", "{}"),
    ("api-key", "{}"),
    ("x-goog-api-key", "{}"),
    ("Private-Token", "{}"),
    ("Workload-Identity-Token", "{}"),
]


@pytest.mark.parametrize(("name", "form"), KEY_PLACES)
async def test_the_token_stands_wherever_an_sdk_puts_its_key(bench: Bench, name: str, form: str) -> None:
    """Each place where services' SDKs put a key is read, and emptied before the call goes on."""
    async with bench.agent.get(
        f"{bench.address}/openai/v1/models", headers={name: form.format(bench.run.token), "X-Auth-Token": "mine"}
    ) as got:
        assert got.status == 200
    (request,) = bench.upstream.received
    assert request.header("authorization") == f"Bearer {VALUE}"
    assert bench.run.token not in str(request)
    assert "mine" not in str(request)


async def test_a_static_token_does_as_well(bench: Bench) -> None:
    """A script that nobody launched shows its static token, and is asked for as what that stands for."""
    token, _ = mint(bytes(37))
    async with bench.agent.get(f"{bench.address}/openai/v1/models", headers={"x-api-key": token}) as got:
        assert got.status == 200
    (asked,) = [each.subject for each in bench.desk.requests if each.operation == "resolve"]
    assert asked is not None
    assert asked.token == token


async def test_basic_and_query_and_own_header(tmp_path: Path, authority: Authority) -> None:
    """A route can put the value into a password, the query or a header of its own, where callers may put the token."""
    text = ROUTE + "".join(
        f"    {name}:\n      upstream: https://localhost:{{port}}/base\n      secret: {SECRET}\n      send: {send}\n"
        "      allow: [{{method: GET, path: /v1/*}}]\n      ca_file: {ca}\n"
        "      allow_private: [127.0.0.0/8, '::1/128']\n"
        for name, send in (
            ("git", "{{basic: {{user: x-access-token}}}}"),
            ("maps", "{{query: key}}"),
            ("own", '{{header: X-Own, value: "Key {{secret}}"}}'),
        )
    )
    async with open_bench(tmp_path, authority, text=text) as bench:
        token = bench.run.token
        basic = base64.b64encode(f"me:{token}".encode()).decode()
        for path, headers in (
            ("/git/v1/a", {"Authorization": f"Basic {basic}"}),
            (f"/maps/v1/a?x=1&%6bey={token}&y=2", {}),
            ("/own/v1/a", {"X-Own": f"Key {token}"}),
        ):
            async with bench.agent.get(bench.address + path, headers=headers) as got:
                assert got.status == 200, await got.text()
        git, maps, own = bench.upstream.received
        assert git.header("authorization") == "Basic " + base64.b64encode(f"x-access-token:{VALUE}".encode()).decode()
        assert maps.line == f"GET /base/v1/a?x=1&y=2&key={VALUE} HTTP/1.1"
        assert maps.header("authorization") is None
        assert own.header("x-own") == f"Key {VALUE}"
        assert token not in str(bench.upstream.received)


async def test_identity_is_that_of_each_request(bench: Bench) -> None:
    """On one connection, the second request may be another run's, and is asked for as such."""
    other = bench.desk.credential("codex")
    head = "GET /openai/v1/models HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{}\r\n"
    first, second = (head.format(bench.port, f"Authorization: Bearer {run.token}\r\n") for run in (bench.run, other))
    found = await bench.raw((first + second + head.format(bench.port, "Connection: close\r\n")).encode())
    assert found.count(b"HTTP/1.1 200 OK") == 2
    assert b"HTTP/1.1 401" in found
    subjects = [each.subject.token for each in bench.desk.requests if each.operation == "resolve" and each.subject]
    assert subjects == [bench.run.token, other.token]


async def test_without_a_token_git_is_asked_for_its_password(bench: Bench) -> None:
    """A call without a credential is refused with a challenge, and nothing leaves."""
    async with bench.agent.get(f"{bench.address}/openai/v1/models") as got:
        assert got.status == 401
        assert "Basic" in got.headers["WWW-Authenticate"]
        problem = await got.json(content_type="application/problem+json")
    assert problem["code"] == "unauthenticated"
    assert not bench.upstream.received


async def test_only_what_the_route_allows(bench: Bench) -> None:
    """Another method, another path, another route or none: refused, recorded, and nothing leaves."""
    for path, method, status in (
        ("/openai/v1/models", "DELETE", 403),
        ("/openai/v2/models", "GET", 403),
        ("/anthropic/v1/models", "GET", 404),
        ("/openai", "GET", 404),
        ("/", "GET", 404),
    ):
        assert (await bench.call(path, method)).status == status
    assert not bench.upstream.received
    calls = await bench.recorded(2)
    assert {(call.fault, call.path) for call in calls} == {("not_allowed", "/(none)")}


async def test_headers_of_the_connection_end_here(bench: Bench) -> None:
    """Hop-by-hop headers, those that `Connection` names, and what speaks of other hops do not go on; the rest does."""
    mine = {
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "Keep-Alive": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic eA==",
        "Cookie": "session=1",
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Host": "internal",
        "Forwarded": "for=1",
        "Via": "1.1 x",
        "X_Api_Key": "under",
        "X-Kept": "yes",
        "OpenAI-Organization": "org",
    }
    assert (await bench.call(headers=mine)).status == 200
    (request,) = bench.upstream.received
    names = {name for name, _ in request.headers}
    assert names - {"accept", "user-agent"} == {
        "host", "accept-encoding", "authorization", "x-kept", "openai-organization",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Original-URL", "x-rewrite-url", "X-HTTP-Method"])
async def test_no_header_turns_a_call_into_another(bench: Bench, name: str) -> None:
    """What would have the upstream take another method or path than was allowed is refused."""
    got = await bench.call(headers={name: "DELETE"})
    assert (got.status, b"header_refused" in got.body) == (400, True)
    assert not bench.upstream.received


async def test_a_body_goes_in_pieces_and_has_a_bound(tmp_path: Path, authority: Authority) -> None:
    """A large body is passed on as it comes, with its length or in chunks; one that is too large is refused."""
    async with open_bench(tmp_path, authority, text=ROUTE + "      max_request: 300KiB\n") as bench:

        async def pieces(number: int) -> AsyncIterator[bytes]:
            for _ in range(number):
                yield b"x" * 1024

        large = b"y" * 200_000
        assert (await bench.call("/openai/v1/f", "POST", data=large)).body == b"echo:" + large
        assert bench.upstream.received[0].header("content-length") == "200000"
        assert len((await bench.call("/openai/v1/f", "POST", data=pieces(200))).body) == 5 + 200 * 1024
        assert bench.upstream.received[1].header("transfer-encoding") == "chunked"
        assert (await bench.call("/openai/v1/f", "POST", data=b"z" * 307_201)).status == 413
        assert (await bench.call("/openai/v1/f", "POST", data=pieces(400))).status == 413
        assert len(bench.upstream.received) == 2
        calls = await bench.recorded(4)
        assert [call.sent for call in calls[:2]] == [200_000, 204_800]


async def test_a_body_may_wait_to_be_asked_for(bench: Bench) -> None:
    """`Expect: 100-continue` is answered here once the call may be made, and not before."""
    head = f"POST /openai/v1/f HTTP/1.1\r\nHost: 127.0.0.1:{bench.port}\r\nExpect: 100-continue\r\n"
    head += "Content-Length: 4\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(f"{head}Authorization: Bearer {bench.run.token}\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert b"HTTP/1.1 200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert bench.upstream.received[0].header("expect") is None
    refused = await bench.raw(f"{head}\r\n".encode())
    assert refused.startswith(b"HTTP/1.1 401")
    assert b"100 Continue" not in refused


async def test_an_upstream_that_says_nothing(tmp_path: Path, authority: Authority) -> None:
    """A call ends when its time, or that of silence, is over."""

    async def hang(_: Received, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with open_bench(tmp_path, authority, text=ROUTE + "      idle: 1s\n") as bench:
        bench.upstream.behave["/v1/hang"] = hang
        got = await bench.call("/openai/v1/hang")
        assert (got.status, b"upstream_timeout" in got.body) == (504, True)
    async with open_bench(tmp_path, authority, text=ROUTE + "      timeout: 1s\n") as bench:
        bench.upstream.behave["/v1/hang"] = hang
        got = await bench.call("/openai/v1/hang")
        assert (got.status, b'"timeout"' in got.body) == (504, True)


async def test_who_goes_away_ends_the_call(bench: Bench) -> None:
    """When the agent closes its connection the call to the upstream ends as well, and is recorded."""
    ended, begun = asyncio.Event(), asyncio.Event()

    async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await writer.wait_closed()
        ended.set()

    bench.upstream.behave["/v1/hang"] = hang
    calling = asyncio.create_task(bench.call("/openai/v1/hang"))
    await asyncio.wait_for(begun.wait(), 10)
    calling.cancel()
    (call,) = await bench.recorded(1)
    assert call.fault == "caller_gone"


async def test_rates_and_numbers_of_a_run(tmp_path: Path, authority: Authority) -> None:
    """A run has so many calls a minute, and so many at once; another run is not held up by it."""
    hold = asyncio.Event()

    async def wait(_: Received, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.write(answer())

    async with open_bench(tmp_path, authority, text=ROUTE + "      rate: 2/m\n") as bench:
        assert [(await bench.call()).status for _ in range(3)] == [200, 200, 429]
        assert (await bench.call()).headers["Retry-After"]
        assert (await bench.call(headers=bench.auth(bench.desk.credential("codex")))).status == 200
    text = ROUTE.replace("egress:\n", "egress:\n  max_calls_per_run: 1\n  max_calls: 2\n")
    async with open_bench(tmp_path, authority, text=text) as bench:
        bench.upstream.behave["/v1/wait"] = wait
        runs = [bench.desk.credential(name) for name in ("a", "b", "c")]
        first = [asyncio.create_task(bench.call("/openai/v1/wait", headers=bench.auth(run))) for run in runs[:2]]
        await until(lambda: len(bench.upstream.received) == 2)
        assert (await bench.call(headers=bench.auth(runs[2]))).status == 503
        hold.set()
        assert [(await each).status for each in first] == [200, 200]
        hold.clear()
        held = asyncio.create_task(bench.call("/openai/v1/wait", headers=bench.auth(runs[0])))
        await until(lambda: len(bench.upstream.received) == 3)
        assert (await bench.call(headers=bench.auth(runs[0]))).status == 429
        hold.set()
        assert (await held).status == 200
