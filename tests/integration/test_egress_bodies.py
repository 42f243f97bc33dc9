"""Bodies on their way through the proxy: nothing is read faster than it is passed on, and half a body is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, Bench, open_bench

from broker_worker.egress import sending
from broker_worker.egress.upstream import UpstreamConnection

LARGE = 64 * 2**20
BOUNDS = ROUTE + "      max_request: 100MiB\n      max_response: 100MiB\n"


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


async def test_a_broken_body_of_the_agent_is_refused_at_once(bench: Bench) -> None:
    """A bad chunk in an upload is no end of the body: nobody waits for more, and the upstream's connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(upload(bench, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
    await until(lambda: bench.upstream.connections == 1)
    writer.write(b"zz\r\nbad\r\n0\r\n\r\n")
    raw = await asyncio.wait_for(reader.read(), sending._IDLE_SECONDS / 2)
    assert raw.split(b" ")[1] == b"400"
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["code"] == "body_broken"
    writer.close()
    await until(lambda: not bench.upstream._writers)
    assert not bench.upstream.received
    assert (await bench.recorded(1))[0].fault == "body_broken"
    assert (await bench.call("/openai/v1/f", "POST", data=pieces())).body == b"echo:onetwo"


async def answers_behind(bench: Bench, *pieces: bytes) -> bytes:
    """All that an agent gets for a whole request, and for what it sends while that one is not answered yet."""
    answered = asyncio.Event()

    async def later(_: Received, writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.write(answer(b"hi"))

    bench.upstream.behave["/v1/up"] = later
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(upload(bench, "Content-Length: 5") + b"hello")
    await until(lambda: bench.upstream.received)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        assert (await bench.call("/openai/v1/g")).status == 200  # by then the piece was read as well
    answered.set()
    raw = await asyncio.wait_for(reader.read(), sending._IDLE_SECONDS / 2)
    writer.close()
    return raw


async def test_a_broken_body_is_refused_at_once_behind_another_request_too(bench: Bench) -> None:
    """The request before it is answered whole, then the broken one is refused: nobody waits for more of it."""
    raw = await answers_behind(bench, upload(bench, "Transfer-Encoding: chunked"), b"zz\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.partition(b"hi")[2].endswith(b'"code":"body_broken"}')


async def test_what_is_no_request_behind_a_whole_one_changes_nothing_for_that(bench: Bench) -> None:
    """The first one is answered as if nothing had come; then the connection ends with a refusal."""
    raw = await answers_behind(bench, b"this is no request\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.partition(b"hi")[2].endswith(b'"code":"malformed"}')


async def pieces() -> AsyncIterator[bytes]:
    """A body that nobody knows the length of."""
    for piece in (b"one", b"two"):
        yield piece
