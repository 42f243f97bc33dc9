"""Connections to upstreams: which are used again, which end, and that nothing is read faster than it is passed on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, Bench, Got, open_bench

from broker_worker.egress import connections, sending
from broker_worker.egress.addresses import resolve_by_system, tls_for
from broker_worker.egress.upstream import UpstreamConnection

LARGE = 64 * 2**20
BOUNDS = ROUTE + "      max_request: 100MiB\n      max_response: 100MiB\n"


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


async def test_requests_do_not_pile_up_before_an_upstream_that_reads_none() -> None:
    """It can answer all the same, but no other call goes by its connection."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def answer_unread(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a whole transport
        await begun.wait()
        writer.write(answer(b"hi"))
        await done.wait()
        writer.transport.abort()

    async with await asyncio.start_server(answer_unread, "127.0.0.1", 0) as server:
        loop, port = asyncio.get_running_loop(), server.sockets[0].getsockname()[1]
        _, connection = await loop.create_connection(UpstreamConnection, "127.0.0.1", port)
        body = bytes(LARGE)
        loop.call_soon(begun.set)
        await connection.ask(b"POST / HTTP/1.1\r\n\r\n", body, is_chunked=False, to_head=False, idle=10)
        assert (await connection.read(), await connection.read()) == (b"hi", b"")
        assert not await connection.finish()
        assert not connection.is_open
        done.set()


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


async def test_events_without_chunks_come_one_by_one(bench: Bench) -> None:
    """An event stream that only the end of its connection ends is passed on as it comes, too."""
    go = asyncio.Event()

    async def events(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
        for event in (b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"):
            writer.write(event)
            await writer.drain()
            await asyncio.wait_for(go.wait(), 10)
            go.clear()
        writer.close()

    bench.upstream.behave["/v1/events"] = events
    seen = []
    async with bench.agent.get(f"{bench.address}/openai/v1/events", headers=bench.auth()) as got:
        async for event in got.content.iter_any():
            seen.append(event)
            go.set()
    assert seen == [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]


async def test_an_answer_before_the_body_was_sent(tmp_path: Path, authority: Authority) -> None:
    """An upstream that refuses a large body without reading it is heard, and its connection carries no other call."""
    done = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"too much", status="413 Content Too Large"))
        await writer.drain()
        await done.wait()
        writer.transport.abort()

    async with open_bench(tmp_path, authority, text=BOUNDS) as bench:
        bench.upstream._server.close()
        bench.upstream._server = await asyncio.start_server(
            refuse, "127.0.0.1", bench.upstream.port, ssl=bench.upstream.tls
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(upload(bench))
        writer.write(b"x" * 100_000)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 413")
        writer.close()
        (call,) = await bench.recorded(1)
        assert (call.status, call.fault, call.received) == (413, None, 8)
        line = bench.egress._connections.get("openai")
        assert line is not None
        assert not line._idle
        done.set()


async def test_the_rest_of_a_body_that_nobody_wants_is_no_request(bench: Bench) -> None:
    """After such an answer the agent can end its body, and its next request on the connection is served."""
    asked: list[int] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(len(head))
        writer.write(answer(b"no") if b"/v1/up" in head else answer(b"yes"))
        await writer.drain()
        await writer.wait_closed()

    bench.upstream._server.close()
    bench.upstream._server = await asyncio.start_server(
        refuse, "127.0.0.1", bench.upstream.port, ssl=bench.upstream.tls
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(upload(bench, "Content-Length: 100000") + b"x" * 50_000)
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\nno"), 10)
    first = f"GET /openai/v1/f HTTP/1.1\r\nHost: 127.0.0.1:{bench.port}\r\n"
    writer.write(b"x" * 50_000 + f"{first}Authorization: Bearer {bench.run.token}\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\nyes"), 10)
    assert len(asked) == 2
    writer.close()


def upload(bench: Bench, *lines: str) -> bytes:
    """The head of an upload of 64 MiB, unless other lines say otherwise."""
    framing = lines or (f"Content-Length: {LARGE}",)
    first = ("POST /openai/v1/up HTTP/1.1", f"Host: 127.0.0.1:{bench.port}", f"Authorization: Bearer {bench.run.token}")
    return "\r\n".join((*first, *framing, "", "")).encode()


async def stalled(progress: Callable[[], int], end: int) -> int:
    """How far something has come that goes on no longer, or has come to its end."""
    before, same = -1, 0
    while same < 30 and progress() < end:
        same = same + 1 if progress() == before else 0
        before = progress()
        await asyncio.sleep(0.01)
    return progress()


async def test_a_large_upload_waits_for_the_upstream(tmp_path: Path, authority: Authority) -> None:
    """While the upstream reads nothing the agent cannot go on sending: the proxy does not hold it all."""
    go, got = asyncio.Event(), 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        while got < LARGE:
            got += len(await reader.read(2**20))
        writer.write(answer(b"whole"))
        await writer.drain()

    async with open_bench(tmp_path, authority, text=BOUNDS) as bench:
        bench.upstream._server.close()
        bench.upstream._server = await asyncio.start_server(
            slow, "127.0.0.1", bench.upstream.port, ssl=bench.upstream.tls
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        sent = 0

        async def send() -> None:
            nonlocal sent
            writer.write(upload(bench))
            while sent < LARGE:
                writer.write(bytes(2**18))
                await writer.drain()
                sent += 2**18

        sending = asyncio.create_task(send())
        assert await stalled(lambda: sent, LARGE) < LARGE / 2
        go.set()
        assert (await asyncio.wait_for(reader.readuntil(b"whole"), 60)).startswith(b"HTTP/1.1 200")
        await sending
        assert got == LARGE
        writer.close()


async def test_a_large_answer_waits_for_the_agent(tmp_path: Path, authority: Authority) -> None:
    """While the agent reads nothing the upstream cannot go on sending, and then all of it arrives."""
    sent = 0

    async def much(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n".encode())
        while sent < LARGE:
            writer.write(bytes(2**18))
            await writer.drain()
            sent += 2**18

    async with open_bench(tmp_path, authority, text=BOUNDS) as bench:
        bench.upstream.behave["/v1/much"] = much
        async with bench.agent.get(f"{bench.address}/openai/v1/much", headers=bench.auth()) as answered:
            assert await stalled(lambda: sent, LARGE) < LARGE / 2
            assert await asyncio.wait_for(answered.read(), 60) == bytes(LARGE)
        (call,) = await bench.recorded(1)
        assert (call.received, call.fault) == (LARGE, None)


@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunks", "length"])
async def test_an_agent_that_goes_away_while_it_sends(bench: Bench, is_chunked: bool) -> None:
    """Half a body never reaches the upstream as a whole one: its connection ends without the body's end."""
    begun, ended = asyncio.Event(), asyncio.Event()
    found = b""

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal found
        while chunk := await reader.read(65536):
            found += chunk
            begun.set()
        ended.set()
        writer.close()

    bench.upstream._server.close()
    bench.upstream._server = await asyncio.start_server(note, "127.0.0.1", bench.upstream.port, ssl=bench.upstream.tls)
    _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    if is_chunked:
        writer.write(upload(bench, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
    else:
        writer.write(upload(bench, "Content-Length: 100000") + b"hello")
    await writer.drain()
    await asyncio.wait_for(begun.wait(), 10)
    writer.transport.abort()
    await asyncio.wait_for(ended.wait(), 10)
    assert not found.endswith(b"0\r\n\r\n")
    (call,) = await bench.recorded(1)
    assert call.fault in {"caller_gone", "body_broken"}


async def test_a_small_body_in_chunks_has_its_bound_too(tmp_path: Path, authority: Authority) -> None:
    """A body that came whole with its head is counted like one that comes in pieces."""
    async with open_bench(tmp_path, authority, text=ROUTE + "      max_request: 1KiB\n") as bench:
        for size, status in ((1024, b"200"), (1025, b"413")):
            chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
            got = await bench.raw(upload(bench, "Transfer-Encoding: chunked", "Connection: close") + chunk)
            assert got.split(b" ")[1] == status
        assert [len(request.body) for request in bench.upstream.received] == [1024]


async def test_a_broken_body_of_the_agent_ends_the_upstreams_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad chunk in an upload is refused, at the latest when the time to go on is over; it is no end of the body."""
    monkeypatch.setattr(sending, "_IDLE_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(upload(bench, "Transfer-Encoding: chunked", "Connection: close") + b"5\r\nhello\r\n")
    await until(lambda: bench.upstream.connections == 1)
    writer.write(b"zz\r\nbad\r\n0\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.split(b" ")[1] in {b"400", b"408"}
    writer.close()
    await until(lambda: not bench.upstream._writers)
    assert not bench.upstream.received
    assert (await bench.call("/openai/v1/f", "POST", data=pieces())).body == b"echo:onetwo"


async def pieces() -> AsyncIterator[bytes]:
    """A body that nobody knows the length of."""
    for piece in (b"one", b"two"):
        yield piece
