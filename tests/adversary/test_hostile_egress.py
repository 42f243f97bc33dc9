"""The proxy against agents, pages and names that mean harm: nothing is misread, and no value comes out."""

import asyncio
import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohappyeyeballs import AddrInfoType
from egress_upstream import Authority, answer
from egress_workbench import ROUTE, VALUE, Bench, open_bench

from broker_worker.core.egress import Route
from broker_worker.egress.addresses import Resolve


def head(bench: Bench, *lines: str, first: str = "POST /openai/v1/f HTTP/1.1", host: str | None = None) -> bytes:
    """The head of a request of the run, which ends its connection."""
    usual = [f"Host: {host or f'127.0.0.1:{bench.port}'}", f"Authorization: Bearer {bench.run.token}"]
    return "\r\n".join([first, *usual, "Connection: close", *lines, "", ""]).encode("latin-1")


def statuses(found: bytes) -> list[int]:
    """The status of each answer."""
    return [int(each) for each in re.findall(rb"(?m)^HTTP/[0-9.]+ ([0-9]{3})", found)]


SMUGGLED = b"GET /openai/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLING = {
    "length and chunks": (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
    "chunks and length": (["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n" + SMUGGLED),
    "two lengths": (["Content-Length: 5", "Content-Length: 0"], b"hello" + SMUGGLED),
    "the same length twice": (["Content-Length: 5", "Content-Length: 5"], b"hello" + SMUGGLED),
    "a list of lengths": (["Content-Length: 5, 5"], b"hello" + SMUGGLED),
    "a signed length": (["Content-Length: +5"], b"hello"),
    "a hexadecimal length": (["Content-Length: 0x5"], b"hello"),
    "a coding beside chunks": (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n"),
    "an unknown coding": (["Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
    "chunks twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
    "chunks not last": (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
    "a space before the colon": (["Transfer-Encoding : chunked"], b"0\r\n\r\n" + SMUGGLED),
    "a folded line": (["X-A: 1", " folded: 2"], b""),
    "a folded coding": (["Transfer-Encoding:", " chunked"], b"0\r\n\r\n"),
    "a bare CR": (["X-A: 1\rX-B: 2"], b""),
    "a bare LF": (["X-A: 1\nTransfer-Encoding: chunked"], b"0\r\n\r\n"),
    "a NUL": (["X-A: 1\0"], b""),
    "a bad name": (["X(A): 1"], b""),
    "no name": ([": 1"], b""),
    "a bad chunk size": (["Transfer-Encoding: chunked"], b"zz\r\nhello\r\n0\r\n\r\n"),
    "a signed chunk size": (["Transfer-Encoding: chunked"], b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk that is too long": (["Transfer-Encoding: chunked"], b"3\r\nhello\r\n0\r\n\r\n"),
    "a chunk with LF": (["Transfer-Encoding: chunked"], b"5\nhello\n0\n\n"),
    "a huge chunk size": (["Transfer-Encoding: chunked"], b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_requests_with_two_meanings(bench: Bench, name: str) -> None:
    """A message whose end two programs could see in two places is refused, and nothing behind it is served."""
    lines, body = SMUGGLING[name]
    found = await bench.raw(head(bench, *lines) + body)
    assert statuses(found) in ([400], [501])
    assert not [each for each in bench.upstream.received if each.body or "smuggled" in each.line]


async def test_trailers_do_not_go_on(bench: Bench) -> None:
    """What stands behind a chunked body becomes no header, of this request or the next."""
    found = await bench.raw(
        head(bench, "Transfer-Encoding: chunked")
        + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert b"200 OK" in found
    (request,) = bench.upstream.received
    assert (request.body, request.header("x-trailer")) == (b"hello", None)
    assert request.header("authorization") == f"Bearer {VALUE}"


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ("GET http://evil.example/openai/v1/x HTTP/1.1", 400),
        ("GET https://localhost/openai/v1/x HTTP/1.1", 400),
        ("GET //evil.example/openai/v1/x HTTP/1.1", 400),
        ("GET /openai/v1/../../admin HTTP/1.1", 400),
        ("GET /openai/v1/%2e%2e/admin HTTP/1.1", 400),
        ("GET /openai/v1/..%2fadmin HTTP/1.1", 400),
        ("GET /openai//v1/x HTTP/1.1", 400),
        ("GET /openai/v1\\x HTTP/1.1", 400),
        ("GET /openai/v1/x#frag HTTP/1.1", 400),
        ("GET /openai%2fv1/x HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
        ("CONNECT api.openai.com:443 HTTP/1.1", 400),
        ("CONNECT /openai/v1/x HTTP/1.1", 400),
        ("GET /openai/v1/x HTTP/1.0", 505),
        ("GET /openai/v1/x HTTP/2.0", 505),
        ("GET /openai/v1/x", 505),
        ("TRACE /openai/v1/x HTTP/1.1", 403),
        ("PROPFIND /openai/v1/x HTTP/1.1", 403),
        ("BREW /openai/v1/x HTTP/1.1", 400),
        ("GET /openai/v1/" + "a" * 9000 + " HTTP/1.1", 400),
    ],
)
async def test_targets_with_another_meaning(bench: Bench, first: str, status: int) -> None:
    """Targets in another form, paths with tricks, tunnels and other versions are refused before anything is asked."""
    found = await bench.raw(head(bench, first=first))
    assert statuses(found) == [status]
    assert not bench.upstream.received
    assert not [request for request in bench.desk.requests if request.operation == "resolve"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{}", "[::1]:{}", ""]
)
async def test_a_name_that_was_made_to_lead_here(bench: Bench, host: str) -> None:
    """A page whose own name resolves to this host (DNS rebinding) does not reach the proxy under that name."""
    lines = f"GET /openai/v1/x HTTP/1.1\r\nHost: {host.format(bench.port)}\r\n{bench_auth(bench)}"
    assert statuses(await bench.raw(lines.encode())) == [421]
    twice = f"GET /openai/v1/x HTTP/1.1\r\nHost: localhost:{bench.port}\r\nHost: evil\r\n{bench_auth(bench)}"
    assert statuses(await bench.raw(twice.encode())) == [400]
    assert not bench.upstream.received


def bench_auth(bench: Bench) -> str:
    """The rest of a head."""
    return f"Authorization: Bearer {bench.run.token}\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("line", ["Origin: http://localhost:3000", "Origin: null", "Sec-Fetch-Site: same-origin"])
async def test_a_page_in_a_browser(bench: Bench, line: str) -> None:
    """A page reaches nothing, whatever its origin, and is allowed no answer by CORS."""
    found = await bench.raw(head(bench, line))
    assert statuses(found) == [403]
    assert b"access-control" not in found.lower()
    assert not bench.upstream.received


@pytest.mark.parametrize("line", ["Upgrade: websocket", "Upgrade: h2c", "Upgrade: TLS/1.0"])
async def test_no_other_protocol(bench: Bench, line: str) -> None:
    """A connection stays HTTP/1.1, and what follows a wish for another protocol is not read."""
    lines = [f"GET /openai/v1/x HTTP/1.1\r\nHost: 127.0.0.1:{bench.port}", line, "Connection: Upgrade"]
    raw = "\r\n".join([*lines, f"Authorization: Bearer {bench.run.token}", "", ""]).encode()
    found = await bench.raw(raw + head(bench, first="GET /openai/v1/behind HTTP/1.1"))
    assert statuses(found) == [400]
    assert not bench.upstream.received


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c.d",
        "sk-real-looking-key",
        "é.é.é",
        "a.b." + "c" * 5000,
        "sbt_",
        "a..c",
    ],
)
async def test_what_is_no_token_asks_nobody(bench: Bench, token: str) -> None:
    """Whatever else stands where the key would be is refused here, and not repeated in the answer."""
    raw = (
        f"GET /openai/v1/x HTTP/1.1\r\nHost: 127.0.0.1:{bench.port}\r\nConnection: close\r\nx-api-key: {token}\r\n\r\n"
    )
    found = await bench.raw(raw.encode())
    assert statuses(found) in ([401], [400])
    assert token.encode() not in found or len(token) < 4
    assert not bench.desk.requests


async def test_two_credentials(bench: Bench) -> None:
    """Who shows two different tokens is nobody; the same one twice is fine, as some SDKs send it."""
    other = bench.desk.credential("codex").token
    assert (await bench.call(headers={"x-api-key": other})).status == 401
    assert (await bench.call(headers={"x-api-key": bench.run.token})).status == 200


PRIVATE = ["127.0.0.1", "10.0.0.7", "169.254.169.254", "100.64.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "224.0.0.1"]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_leads_inside(tmp_path: Path, authority: Authority, address: str) -> None:
    """A name that resolves to an address inside is not connected to, also if a public address stands beside it."""
    text = ROUTE.replace('      allow_private: [127.0.0.0/8, "::1/128"]\n', "").replace(
        "https://localhost:", "https://api.example.com:"
    )

    async def resolve(host: str, port: int) -> Sequence[str]:
        assert host == "api.example.com"
        return ["93.184.216.34", address]

    async with open_bench(tmp_path, authority, text=text, resolve=resolve) as bench:
        got = await bench.call()
        assert (got.status, json.loads(got.body)["code"]) == (502, "address_refused")
        assert address.encode() not in got.body
        assert bench.upstream.connections == 0


async def test_what_is_connected_to_is_what_was_checked(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once a connection, and should anything slip by, the socket itself is refused."""
    text = ROUTE.replace('      allow_private: [127.0.0.0/8, "::1/128"]\n', "").replace(
        "https://localhost:", "https://api.example.com:"
    )
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async def unchecked(route: Route, resolve: Resolve) -> list[AddrInfoType]:
        (address,) = await resolve(route.upstream.host, route.upstream.port)
        place = (address, route.upstream.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)]

    monkeypatch.setattr("broker_worker.egress.connections.look_up", unchecked)
    async with open_bench(tmp_path, authority, text=text, resolve=resolve) as bench:
        got = await bench.call()
        assert (got.status, json.loads(got.body)["code"]) == (502, "address_refused")
        assert (asked, bench.upstream.connections) == (["api.example.com"], 0)


@pytest.mark.parametrize("kind", ["name", "authority"])
async def test_an_upstream_that_is_another(tmp_path: Path, authority: Authority, kind: str) -> None:
    """A certificate for another name or of another authority, and the value is not sent."""
    other = tmp_path / "other"
    other.mkdir()
    text = ROUTE
    if kind == "name":
        text = text.replace("https://localhost:", "https://api.example.com:")
    if kind == "authority":
        text = text.replace("{ca}", str(Authority(other).file))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with open_bench(tmp_path, authority, text=text, resolve=resolve) as bench:
        got = await bench.call()
        assert (got.status, json.loads(got.body)["code"]) == (502, "upstream_not_trusted")
        assert not bench.upstream.received


async def test_no_proxy_of_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that would lead calls to another proxy, or credentials of .netrc, count for nothing."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await bench.call()).status == 200


async def test_values_that_could_end_a_header(bench: Bench) -> None:
    """A stored value with a line break, or none that can be sent or kept out of answers, is not sent."""
    values: list[str | bytes] = ["a\r\nX-Admin: 1", "a\nb", "", " padded ", "é" * 8, b"\xff" * 8, "abc"]
    for place, value in enumerate(values):
        bench.desk.values["openai.api_key"] = value
        got = await bench.call(headers=bench.auth(bench.desk.credential(f"agent-{place}")))
        assert (got.status, json.loads(got.body)["code"]) == (502, "value_unusable"), value
    assert not bench.upstream.received


async def test_connections_that_say_nothing_hold_up_nobody(bench: Bench) -> None:
    """Many half-open connections, and one request that arrives byte by byte, leave others served."""
    opened = [await asyncio.open_connection("127.0.0.1", bench.port) for _ in range(50)]
    for _, writer in opened[:25]:
        writer.write(b"GET /openai/v1/")
    assert (await bench.call()).status == 200
    for _, writer in opened:
        writer.close()


async def test_the_canary_stays_inside(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """The value is in no answer, no log, no record and no question, whatever goes wrong."""
    bench.upstream.says("/v1/echo", answer(f"{VALUE} {VALUE[::-1]}".encode(), f"X-Key: {VALUE}", f"{VALUE}: 1"))
    bench.upstream.says("/v1/bad", f"HTTP/1.1 200 OK\r\nX: {VALUE}\r\nContent-Length: x{VALUE}\r\n\r\n".encode())
    bench.upstream.says("/v1/line", f"{VALUE}\r\n\r\n".encode())
    found = b"".join(
        [
            (got := await bench.call(f"/openai{path}", "POST", data=b"x")).body + str(got.headers).encode()
            for path in ("/v1/echo", "/v1/bad", "/v1/line", "/v1/normal", "/v2/none")
        ]
    )
    await bench.recorded(5)
    said = capfd.readouterr()
    everything = found.decode() + said.out + said.err + repr(bench.desk.calls) + repr(bench.desk.requests)
    assert VALUE not in everything
    assert bench.run.token not in everything
