"""Answers on their way back: as they come, within bounds, and without the value."""

import asyncio
import base64
import gzip
import json
import zlib
from pathlib import Path

import aiohttp
import pytest
from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, SECRET, VALUE, Bench, open_bench

MASK = b"[masked openai.api_key]"
ALSO = f"Bearer {VALUE}".encode()


@pytest.mark.parametrize(
    "said",
    [
        VALUE.encode(),
        json.dumps({"error": f"Incorrect API key provided: {VALUE}."}).encode(),
        base64.b64encode(VALUE.encode()),
        base64.b64encode(f"x-access-token:{VALUE}".encode()),
        b"x" * 70_000 + VALUE.encode() + b"y" * 70_000,
    ],
    ids=["plain", "json", "base64", "basic", "large"],
)
async def test_an_answer_that_repeats_the_value(bench: Bench, said: bytes) -> None:
    """The value does not come back, whole or encoded, in a small body, a large one, chunks or a header."""
    bench.upstream.says("/v1/said", answer(said, f"X-Echo: {VALUE}", "X-Plain: yes"))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (said[:9], said[9:20], said[20:]) if part)
    bench.upstream.says("/v1/chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    for path in ("/openai/v1/said", "/openai/v1/chunks"):
        got = await bench.call(path)
        assert got.status == 200
        for form in (
            VALUE.encode(),
            base64.b64encode(VALUE.encode())[:20],
            base64.b64encode(b":" + VALUE.encode())[4:20],
        ):
            assert form not in got.body
        assert VALUE not in str(got.headers)
        assert b"masked" in got.body
    got = await bench.call("/openai/v1/said")
    assert got.headers["X-Plain"] == "yes"
    assert int(got.headers.get("Content-Length", len(got.body))) == len(got.body)


async def test_an_answer_without_the_value_is_the_same(bench: Bench) -> None:
    """Status, headers and body come back as they are, errors of the upstream as well."""
    bench.upstream.says("/v1/no", answer(b'{"error": 1}', "Content-Type: application/json", status="529 Overloaded"))
    got = await bench.call("/openai/v1/no")
    assert (got.status, got.body, got.headers["Content-Type"]) == (529, b'{"error": 1}', "application/json")
    bench.upstream.says("/v1/none", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await bench.call("/openai/v1/none")).status == 204
    bench.upstream.says("/v1/head", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
    got = await bench.call("/openai/v1/head", "HEAD")
    assert (got.status, got.headers["Content-Length"]) == (200, "12345")


async def test_interim_answers_stay_here(bench: Bench) -> None:
    """What an upstream says before its answer (100, 103) is not taken for it, and does not come back."""
    interim = f"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <{VALUE}>\r\n\r\n".encode()
    bench.upstream.says("/v1/early", interim + answer(b"whole", "X-Ok: 1"))
    for _ in range(2):
        got = await bench.call("/openai/v1/early", "POST", data=b"x")
        assert (got.status, got.body, got.headers["X-Ok"], "Link" in got.headers) == (200, b"whole", "1", False)
    assert bench.upstream.connections == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_answer_is_searched_too(bench: Bench, coding: str) -> None:
    """Identity was asked for; an upstream that compresses all the same is decoded, and the value found."""
    said = b"a" * 100_000 + ALSO + b"b"
    packed = gzip.compress(said) + gzip.compress(b"!") if coding == "gzip" else zlib.compress(said)
    bench.upstream.says("/v1/packed", answer(packed, f"Content-Encoding: {coding}"))
    got = await bench.call("/openai/v1/packed")
    assert "Content-Encoding" not in got.headers
    assert got.body == b"a" * 100_000 + b"Bearer " + MASK + b"b" + (b"!" if coding == "gzip" else b"")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (answer(ALSO, "Content-Encoding: br"), "encoding_refused"),
        (answer(ALSO, "Content-Encoding: gzip, gzip"), "encoding_refused"),
        (answer(ALSO, "Content-Encoding: zstd"), "encoding_refused"),
        (answer(b"x" * 9, "Content-Length: 90"), "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nshort", "upstream_broken"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "upstream_broken"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", "upstream_failed"),
        (b"", "upstream_failed"),
    ],
    ids=["br", "two", "zstd", "lengths", "short", "101", "ssh", "header", "nothing"],
)
async def test_answers_that_cannot_be_passed_on(bench: Bench, raw: bytes, code: str) -> None:
    """What cannot be searched or read is refused with 502, recorded, and repeats nothing of it."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    bench.upstream.behave["/v1/bad"] = behave
    got = await bench.call("/openai/v1/bad")
    assert (got.status, json.loads(got.body)["code"]) == (502, code)
    (call,) = await bench.recorded(1)
    assert call.fault == code


async def test_what_breaks_off_later_is_seen_to_break_off(tmp_path: Path, authority: Authority) -> None:
    """When a long answer turns out bad or too long, the agent's connection ends before the body does."""
    async with open_bench(tmp_path, authority, text=ROUTE + "      max_response: 100KiB\n") as bench:
        go = asyncio.Event()

        async def bad(_: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await writer.drain()
            await go.wait()
            writer.write(b"zz\r\nworld\r\n0\r\n\r\n")

        bench.upstream.behave["/v1/bad"] = bad
        async with bench.agent.get(f"{bench.address}/openai/v1/bad", headers=bench.auth()) as got:
            assert await got.content.readany() == b"hello"
            go.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await got.read()
        bench.upstream.says("/v1/bomb", answer(zlib.compress(bytes(10**7)), "Content-Encoding: deflate"))
        bench.upstream.says("/v1/cut", answer(gzip.compress(b"word" * 9_999)[:-20], "Content-Encoding: gzip"))
        for path, fault in (("/openai/v1/bomb", "response_too_large"), ("/openai/v1/cut", "upstream_broken")):
            with pytest.raises(aiohttp.ClientPayloadError):
                await bench.call(path)
            calls = await bench.recorded(2 if "bomb" in path else 3)
            assert calls[-1].fault == fault


async def test_a_response_has_a_bound(tmp_path: Path, authority: Authority) -> None:
    """An answer that is longer than the route allows is refused, or cut off where that shows later."""
    async with open_bench(tmp_path, authority, text=ROUTE + "      max_response: 100KiB\n") as bench:
        bench.upstream.says("/v1/long", answer(b"x" * 102_401))
        assert (await bench.call("/openai/v1/long")).status == 502
        bench.upstream.says("/v1/fits", answer(b"x" * 102_400))
        assert len((await bench.call("/openai/v1/fits")).body) == 102_400


async def test_a_coding_that_makes_nothing_of_much_has_a_bound(tmp_path: Path, authority: Authority) -> None:
    """All members of a coding are read, however little they have, but not without end."""
    nothing, chunked = gzip.compress(b""), b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    async with open_bench(tmp_path, authority, text=ROUTE + "      max_response: 100KiB\n") as bench:
        for path, members in (("few", nothing * 4_500 + gzip.compress(b"end")), ("many", nothing * 12_000)):
            raw = b"HTTP/1.1 200 OK\r\n%b%x\r\n%b\r\n0\r\n\r\n" % (chunked, len(members), members)
            bench.upstream.says(f"/v1/{path}", raw)
        assert (await bench.call("/openai/v1/few")).body == b"end"
        with pytest.raises(aiohttp.ClientPayloadError):
            await bench.call("/openai/v1/many")
        assert [call.fault for call in await bench.recorded(2)] == [None, "response_too_large"]


async def test_events_come_one_by_one(bench: Bench) -> None:
    """Each event is passed on when it comes; one that has the value comes without it."""
    go = asyncio.Event()

    async def events(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in (b"data: one\n\n", b"data: key " + VALUE.encode() + b"\n\n", b"data: [DONE]\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.wait_for(go.wait(), 10)
            go.clear()
        writer.write(b"0\r\n\r\n")

    bench.upstream.behave["/v1/events"] = events
    async with bench.agent.get(f"{bench.address}/openai/v1/events", headers=bench.auth()) as got:
        assert got.headers["Content-Type"] == "text/event-stream"
        seen = []
        async for event in got.content.iter_any():
            seen.append(event)
            go.set()
    assert seen == [b"data: one\n\n", b"data: key " + MASK + b"\n\n", b"data: [DONE]\n\n"]


async def test_redirects_are_not_followed(bench: Bench) -> None:
    """A redirect is passed on: within the upstream as a place on the route, elsewhere as it is, without the value."""
    origin = f"https://localhost:{bench.upstream.port}"
    for target, place in (
        (f"{origin}/v1/new?x=1", "/openai/v1/new?x=1"),
        ("/v1/new", "/openai/v1/new"),
        ("https://elsewhere.example/steal", "https://elsewhere.example/steal"),
        (f"https://elsewhere.example/?k={VALUE}", f"https://elsewhere.example/?k={MASK.decode()}"),
        ("//elsewhere.example/x", "//elsewhere.example/x"),
        ("https://localhost.evil.example/x", "https://localhost.evil.example/x"),
    ):
        bench.upstream.says("/v1/old", answer(b"", f"Location: {target}", status="307 Temporary Redirect"))
        before = len(bench.upstream.received)
        got = await bench.call("/openai/v1/old", "POST", data=b"x")
        assert (got.status, got.headers["Location"]) == (307, place)
        assert len(bench.upstream.received) == before + 1


async def test_no_session_and_nothing_of_the_connection_comes_back(bench: Bench) -> None:
    """A cookie that the secret earned is a credential; `Alt-Svc` and hop-by-hop headers are the upstream's own."""
    bench.upstream.says(
        "/v1/c",
        answer(
            b"{}", "Set-Cookie: session=1", "Alt-Svc: h3=x", "Connection: x-hop", "X-Hop: 1", "Keep-Alive: 5", "X-Ok: 1"
        ),
    )
    got = await bench.call("/openai/v1/c")
    assert set(got.headers) - {"Date", "Server", "Content-Type", "Content-Length"} == {"X-Ok"}


async def test_a_value_that_is_taken_back_ends_a_stream(bench: Bench) -> None:
    """When the secret is revoked, an answer that is still coming ends, and the next call is refused."""
    more = asyncio.Event()

    async def events(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
        await writer.drain()
        await more.wait()
        writer.write(b"data: two\n\n")
        await writer.drain()
        writer.close()

    bench.upstream.behave["/v1/events"] = events
    async with bench.agent.get(f"{bench.address}/openai/v1/events", headers=bench.auth()) as got:
        assert await got.content.readany() == b"data: one\n\n"
        bench.desk.revoke(SECRET)
        refused = await bench.call()
        assert (refused.status, json.loads(refused.body)["code"]) == (403, "revoked")
        more.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await got.read()


async def test_a_value_that_is_taken_back_before_it_left_stays(bench: Bench) -> None:
    """A call whose body is still coming when the secret is revoked is not made."""
    assert (await bench.call()).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    host, token = f"127.0.0.1:{bench.port}", bench.run.token
    head = f"POST /openai/v1/f HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\n"
    writer.write(f"{head}Content-Length: 5\r\n\r\n".encode())
    assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    bench.desk.revoke(SECRET)
    assert (await bench.call()).status == 403
    writer.write(b"hello")
    assert b" 403 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    assert len(bench.upstream.received) == 1
    assert [call.fault for call in await bench.recorded(3)] == [None, "revoked", "revoked"]
