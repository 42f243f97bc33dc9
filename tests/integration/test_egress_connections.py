"""Connections to upstreams: which are used again, which end, and which calls are made again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, Bench, Got, open_bench

from broker_worker.egress import connections
from broker_worker.egress.addresses import resolve_by_system, tls_for


def code(got: Got) -> tuple[int, str]:
    """The status and the code of a refusal."""
    return got.status, json.loads(got.body)["code"]


def last_words(raw: bytes) -> Callable[[Received, asyncio.StreamWriter], Awaitable[None]]:
    """Says these bytes, and ends the connection."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return behave


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.0 200 OK\r\n\r\nwhole",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
    ],
    ids=["1.0", "1.0 with length", "1.1 without length", "1.1 close", "1.1 close with chunks"],
)
async def test_an_upstream_that_ends_each_connection(bench: Bench, raw: bytes) -> None:
    """The answer is whole, and the next call goes by another connection."""
    bench.upstream.behave["/v1/last"] = last_words(raw)
    for _ in range(2):
        got = await bench.call("/openai/v1/last", "POST", data=b"x")
        assert (got.status, got.body) == (200, b"whole")
    assert [request.connection for request in bench.upstream.received] == [1, 2]


async def test_an_upstream_that_keeps_its_connection(bench: Bench) -> None:
    """Calls of a run follow each other on one connection, whatever kind of body they have."""
    bench.upstream.says("/v1/none", b"HTTP/1.1 204 No Content\r\n\r\n")
    bench.upstream.says("/v1/head", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
    bench.upstream.says("/v1/chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    bench.upstream.says("/v1/large", answer(b"x" * 300_000))
    for path, method in (("none", "GET"), ("head", "HEAD"), ("chunks", "GET"), ("large", "GET"), ("f", "POST")):
        data = b"y" * 200_000 if method == "POST" else None
        assert (await bench.call(f"/openai/v1/{path}", method, data=data)).status in {200, 204}
    assert bench.upstream.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        answer(b"first") + answer(b"nobody's"),
        answer(b"first") + b"nobody's",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n" + answer(b"nobody's"),
    ],
    ids=["another answer", "bytes", "another behind chunks"],
)
async def test_what_comes_with_an_answer_and_behind_it(bench: Bench, said: bytes) -> None:
    """A second answer in the same packet is passed to nobody, and its connection carries no other call."""
    bench.upstream.says("/v1/twice", said)
    for _ in range(2):
        assert (await bench.call("/openai/v1/twice", "POST", data=b"x")).body == b"first"
    assert (await bench.call("/openai/v1/f", "POST", data=b"mine")).body == b"echo:mine"
    assert bench.upstream.connections == 3


async def test_an_answer_before_the_question(bench: Bench) -> None:
    """What an upstream says on a connection before it was asked anything is no answer."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"early"))
        await writer.drain()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=bench.upstream.tls) as server:
        line = bench.egress._connections.get("openai")
        assert line is not None
        upstream = replace(line.route.upstream, port=server.sockets[0].getsockname()[1])
        route = replace(line.route, upstream=upstream)
        connection = await connections.Line(route, resolve_by_system, tls_for(route)).connect()
        await until(lambda: not connection.is_open)


async def test_a_connection_that_the_upstream_just_closed(bench: Bench) -> None:
    """A call that may be made twice is made again by a new connection; one that may not is refused."""

    async def close_at_the_second(request: Received, writer: asyncio.StreamWriter) -> None:
        if [each.connection for each in bench.upstream.received].count(request.connection) > 1:
            writer.transport.abort()
        else:
            writer.write(answer(b"whole"))

    bench.upstream.behave["/v1/f"] = close_at_the_second
    assert [(await bench.call("/openai/v1/f")).body for _ in range(2)] == [b"whole"] * 2
    assert [request.connection for request in bench.upstream.received] == [1, 1, 2]
    assert code(await bench.call("/openai/v1/f", "POST", data=b"x")) == (502, "upstream_failed")
    assert [request.connection for request in bench.upstream.received] == [1, 1, 2, 2]


@pytest.mark.parametrize(("method", "data"), [("PUT", b"x"), ("DELETE", None), ("GET", b"x")])
async def test_what_the_upstream_may_have_done_is_not_asked_for_again(
    tmp_path: Path, authority: Authority, method: str, data: bytes | None
) -> None:
    """A call that changes something, or has a body, leaves once, also by a connection that the upstream just closed."""
    text = ROUTE.replace("method: HEAD", f"method: {method}") if method != "GET" else ROUTE
    async with open_bench(tmp_path, authority, text=text) as bench:
        assert (await bench.call("/openai/v1/f")).status == 200
        bench.upstream.behave["/v1/f"] = last_words(b"")
        assert code(await bench.call("/openai/v1/f", method, data=data)) == (502, "upstream_failed")
        assert [request.connection for request in bench.upstream.received] == [1, 1]


async def test_a_new_connection_that_ends_is_not_tried_again(bench: Bench) -> None:
    """So an upstream that closes every connection is asked once a call."""
    bench.upstream.behave["/v1/f"] = last_words(b"")
    assert code(await bench.call("/openai/v1/f")) == (502, "upstream_failed")
    assert len(bench.upstream.received) == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again(bench: Bench) -> None:
    """Nor is one that broke off on a connection that had served a call."""
    assert (await bench.call("/openai/v1/f")).status == 200
    bench.upstream.behave["/v1/f"] = last_words(b"HTTP/1.1 200 OK\r\nContent-")
    assert code(await bench.call("/openai/v1/f")) == (502, "upstream_failed")
    assert len(bench.upstream.received) == 2


async def test_idle_connections_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody uses is closed after a while, and then nothing looks any more."""
    monkeypatch.setattr(connections, "KEEP_SECONDS", 0.05)
    assert (await bench.call()).status == 200
    await until(lambda: not bench.upstream._writers)
    line = bench.egress._connections.get("openai")
    assert line is not None
    await until(lambda: not line._idle and line._look is None)


async def test_an_old_connection_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nothing has closed it yet: a server may be about to."""
    assert (await bench.call()).status == 200
    monkeypatch.setattr(connections, "KEEP_SECONDS", 0.0)
    assert (await bench.call()).status == 200
    assert [request.connection for request in bench.upstream.received] == [1, 2]


async def test_a_route_that_changed_keeps_no_connection(tmp_path: Path, authority: Authority) -> None:
    """Its idle connections end at once, and those that carry a call end after it."""
    hold = asyncio.Event()

    async def wait(_: Received, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.write(answer(b"whole"))

    async with open_bench(tmp_path, authority, watch=True) as bench:
        bench.upstream.behave["/v1/wait"] = wait
        calling = asyncio.create_task(bench.call("/openai/v1/wait"))
        await until(lambda: len(bench.upstream.received) == 1)
        assert (await bench.call()).status == 200
        assert len(bench.upstream._writers) == 2
        bench.file.write_text(bench.file.read_text().replace("    openai:", "    other:"))
        bench.changed.set()
        await until(lambda: len(bench.upstream._writers) == 1)
        hold.set()
        assert (await calling).body == b"whole"
        await until(lambda: not bench.upstream._writers)


@pytest.mark.parametrize("path", ["small", "streamed"])
async def test_an_upstream_that_falls_silent_within_an_answer(tmp_path: Path, authority: Authority, path: str) -> None:
    """What has not begun for the agent is refused, and what has begun is cut off."""
    heads = {"small": b"Content-Length: 90\r\n\r\n", "streamed": b"Transfer-Encoding: chunked\r\n\r\n5\r\n"}

    async def half(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + heads[path] + b"hello\r\n")
        await writer.drain()
        await writer.wait_closed()

    async with open_bench(tmp_path, authority, text=ROUTE + "      idle: 1s\n") as bench:
        bench.upstream.behave["/v1/half"] = half
        if path == "small":
            assert code(await bench.call("/openai/v1/half")) == (504, "upstream_timeout")
        else:
            with pytest.raises(aiohttp.ClientPayloadError):
                await bench.call("/openai/v1/half")
        (call,) = await bench.recorded(1)
        assert (call.status, call.fault) == (200, "upstream_timeout")
        await until(lambda: not bench.upstream._writers)


async def test_an_upstream_that_falls_silent_after_a_long_body(tmp_path: Path, authority: Authority) -> None:
    """While a body is sent the upstream need say nothing; from then on its time runs."""

    async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async with open_bench(tmp_path, authority, text=ROUTE + "      idle: 1s\n") as bench:
        bench.upstream.behave["/v1/hang"] = hang
        got = await asyncio.wait_for(bench.call("/openai/v1/hang", "POST", data=b"x" * 300_000), 20)
        assert code(got) == (504, "upstream_timeout")
        assert len(bench.upstream.received[0].body) == 300_000


async def test_words_before_an_answer_without_end(bench: Bench) -> None:
    """An upstream that says `100 Continue` for ever is refused, and heard no longer."""

    async def go_on(_: Received, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()

    bench.upstream.behave["/v1/f"] = go_on
    assert code(await bench.call("/openai/v1/f")) == (502, "upstream_failed")
    await until(lambda: not bench.upstream._writers)
