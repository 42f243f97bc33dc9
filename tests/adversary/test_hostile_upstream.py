"""The proxy between an agent and an upstream that means harm, or answers oddly: no value, and no other route."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, SECRET, VALUE, Bench, open_bench

PACKED = gzip.compress(VALUE.encode())
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PACKED), PACKED)


@pytest.mark.parametrize(
    "raw",
    [
        answer(PACKED, "Content-Encoding: identity", "Content-Encoding: gzip"),
        answer(gzip.compress(PACKED), "Content-Encoding: gzip", "Content-Encoding: gzip"),
        answer(PACKED, "Content-Encoding:", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    ],
    ids=["two codings", "twice", "an empty one", "a transfer coding", "two transfer codings"],
)
async def test_no_coding_hides_the_value(bench: Bench, raw: bytes) -> None:
    """What is encoded in more ways than one cannot be searched, so it is not passed on."""
    bench.upstream.says("/v1/f", raw)
    got = await bench.call("/openai/v1/f")
    assert json.loads(got.body)["code"] == "encoding_refused"


HERE = "127.0.0.1:{port}/github/repos"


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ("http://" + HERE, None),
        ("http://localhost:{port}/github/repos", None),
        ("HTTP://x@" + HERE, None),
        ("//" + HERE, None),
        ("http:/" + HERE, None),
        ("http:../../github/repos", None),
        ("\\\\" + HERE, None),
        ("/\\" + HERE, None),
        ("/github repos", None),
        ("http://[/", None),
        ("../../github/repos", "/openai/github/repos"),
        ("/../github/repos", "/openai/github/repos"),
        ("/github/repos", "/openai/github/repos"),
        ("next?page=2", "/openai/v1/next?page=2"),
        ("?page=2", "/openai/v1/f?page=2"),
        ("/github/%2e%2e/x", "https://localhost:{upstream}/github/%2e%2e/x"),
        ("//elsewhere.example/github", "//elsewhere.example/github"),
    ],
)
async def test_no_redirect_leads_to_another_route(bench: Bench, place: str, seen: str | None) -> None:
    """An agent that follows a redirect stays on the route or leaves the proxy: no upstream calls other routes by it."""
    ports = {"port": bench.port, "upstream": bench.upstream.port}
    bench.upstream.says("/v1/f", answer(b"", "Location: " + place.format(**ports), status="307 Temporary Redirect"))
    got = await bench.call("/openai/v1/f", "POST", data=b"x")
    assert (got.status, got.headers.get("Location")) == (307, seen and seen.format(**ports))


async def test_a_place_outside_of_the_prefix_is_not_on_the_proxy(tmp_path: Path, authority: Authority) -> None:
    """Where the route has a prefix, what the upstream has beside it is the upstream's, and is said in full."""
    text = ROUTE.replace("{port}\n", "{port}/api\n")
    async with open_bench(tmp_path, authority, text=text) as bench:
        for place, seen in (
            ("/github/v1/keys", f"https://localhost:{bench.upstream.port}/github/v1/keys"),
            ("../../../github/v1/keys", f"https://localhost:{bench.upstream.port}/github/v1/keys"),
            ("/api/v1/keys", "/openai/v1/keys"),
        ):
            bench.upstream.says("/api/v1/f", answer(b"", f"Location: {place}", status="302 Found"))
            assert (await bench.call("/openai/v1/f")).headers["Location"] == seen


async def test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next_call(bench: Bench) -> None:
    """A second answer to one request, which a smuggled request could bring about, is given to nobody."""
    said = asyncio.Event()

    async def twice(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"first"))
        await writer.drain()
        await said.wait()
        writer.write(answer(b"nobody's"))
        await writer.drain()

    bench.upstream.behave["/v1/twice"] = twice
    assert (await bench.call("/openai/v1/twice", "POST", data=b"x")).body == b"first"
    said.set()
    line = bench.egress._connections.get("openai")
    assert line is not None
    (kept,) = [each for run in line._idle.values() for each in run]
    await until(lambda: not kept.is_open)  # it has arrived
    assert (await bench.call("/openai/v1/f", "POST", data=b"mine")).body == b"echo:mine"


@pytest.mark.parametrize("status", ["000 No", "099 No"])
async def test_a_status_that_is_none_hides_no_calls(bench: Bench, status: str) -> None:
    """The broker takes no such status, and would record none of the calls that are reported together with it."""
    bench.upstream.says("/v1/f", answer(b"{}", status=status))
    assert (await bench.call()).status == 200
    got = await bench.call("/openai/v1/f")
    assert (got.status, json.loads(got.body)["code"]) == (502, "upstream_broken")
    assert [(call.status, call.fault) for call in await bench.recorded(2)] == [(200, None), (None, "upstream_broken")]


async def test_a_short_answer_ends_too_when_the_secret_is_taken_back(bench: Bench) -> None:
    """As a long one does: what comes after the revocation is not passed on."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await writer.drain()
        begun.set()
        await go.wait()
        writer.write(b"world")

    bench.upstream.behave["/v1/slow"] = slow
    calling = asyncio.create_task(bench.call("/openai/v1/slow"))
    await asyncio.wait_for(begun.wait(), 10)
    bench.desk.revoke(SECRET)
    go.set()
    got = await calling
    assert (got.status, json.loads(got.body)["code"]) == (403, "revoked")


async def test_runs_share_no_connection(bench: Bench) -> None:
    """So whatever an agent brings an upstream to say out of turn is said to that agent alone."""
    other = bench.auth(bench.desk.credential("codex"))
    for headers in ({}, other, {}, other):
        assert (await bench.call(headers=headers)).status == 200
    assert [request.connection for request in bench.upstream.received] == [1, 2, 1, 2]


async def test_the_next_page_is_on_the_route(bench: Bench) -> None:
    """A program that follows `Link`, as GitHub's do, stays here, and sends its token to no service."""
    here, there = bench.address, f"https://localhost:{bench.upstream.port}"
    link = f'<{there}/v1/x?page=2>; rel="next", <https://elsewhere.example/>; rel="help", </v1/x?page=9>; rel="last"'
    bench.upstream.says("/v1/x", answer(b"[]", f"Link: {link}"))
    assert (await bench.call("/openai/v1/x")).headers["Link"] == (
        f'<{here}/openai/v1/x?page=2>; rel="next", <https://elsewhere.example/>; rel="help", '
        f'<{here}/openai/v1/x?page=9>; rel="last"'
    )
    bench.upstream.says("/v1/x", answer(b"[]", f'Link: <{here}/github/keys>; rel="next"'))
    assert (await bench.call("/openai/v1/x")).headers["Link"] == '<>; rel="next"'
