"""A Connect server that is slow, down, refuses, is not Connect, or says too much: told apart, bounded, not repeated."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from connect_server import Fault, Vault, failure, new_id
from connect_workbench import REF, Desk, open_desk, provider_of
from onepassword_fakes import LoopbackServer, answer, tls_of_nobody
from provider_conformance import CANARY, everything_said, failure_of
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.connect_api import CONCURRENCY, MAX_ANSWER

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk whose server runs."""
    async with open_desk() as desk:
        yield desk


async def test_a_large_value_costs_only_itself(desk: Desk) -> None:
    """2 MiB are too large, and another field of the same item arrives."""
    desk.vault.add("large", {"two MiB": "x" * (2 * 1024 * 1024), "small": "s"})
    large, small = await desk.get("connect://Agents/large/two MiB", "connect://Agents/large/small")
    assert isinstance(large, ProviderError)
    assert large.kind is K.TOO_LARGE
    assert small == Fetched(b"s", "1")


@pytest.mark.parametrize("with_length", [True, False])
async def test_an_endless_answer_is_not_read_to_its_end(desk: Desk, with_length: bool) -> None:
    """An item beyond the bound is given up there, whether its length is told or not; other items arrive."""
    huge = desk.vault.add("huge", {"x": "x"})
    over = asyncio.Event()

    async def much() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * (MAX_ANSWER // 4)
        await over.wait()  # who reads on, waits in vain

    headers = {"content-length": str(25 * MAX_ANSWER)} if with_length else {}
    desk.server.fault = lambda request: (
        StreamingResponse(much(), 200, headers, "application/json") if huge["id"] in request.url.path else None
    )
    found, good = await desk.get("connect://Agents/huge/x", REF)
    over.set()
    assert isinstance(found, ProviderError)
    assert found.kind is K.TOO_LARGE
    assert good == Fetched(CANARY.encode(), "1")


async def test_requests_under_way_are_bounded(desk: Desk) -> None:
    """Of thirty items only eight are asked for at a time, over all calls."""
    for number in range(30):
        desk.vault.add(f"item {number}", {"x": "x"})

    async def wait(request: Request) -> Response | None:
        for _ in range(10):
            await asyncio.sleep(0)
        return None

    desk.server.fault = wait
    refs = [f"connect://Agents/item {number}/x" for number in range(30)]
    await asyncio.gather(desk.provider.get_many(refs[:15]), desk.provider.get_many(refs[15:]))
    assert desk.server.most_under_way == CONCURRENCY


@pytest.mark.parametrize("dripping", [True, False])
async def test_a_slow_item_costs_the_others_nothing(desk: Desk, dripping: bool) -> None:
    """An item that hangs, or comes byte by byte without end, is a `TIMEOUT`; the others of the call arrive."""
    slow = desk.vault.add("slow", {"x": "x"})
    over = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        while not over.is_set():
            yield b" "
            await asyncio.sleep(0.01)

    async def hang(request: Request) -> Response | None:
        if slow["id"] not in request.url.path:
            return None
        if dripping:
            return StreamingResponse(drip(), media_type="application/json")
        await over.wait()
        return failure(500, "over")

    desk.server.fault = hang
    provider = provider_of(desk.server.address, timeout=1.0)
    answers = await provider.get_many(["connect://Agents/slow/x", REF])
    over.set()
    found = answers["connect://Agents/slow/x"]
    assert isinstance(found, ProviderError)
    assert found.kind is K.TIMEOUT
    assert isinstance(answers[REF], Fetched)
    await provider.close()


async def test_a_vault_that_is_slow_to_find_costs_the_others_nothing(desk: Desk) -> None:
    """One name that is not answered holds up neither another vault's name nor its items."""
    over = asyncio.Event()

    async def hang(request: Request) -> Response | None:
        if "Slow" in str(request.url):
            await over.wait()
        return None

    desk.server.fault = hang
    provider = provider_of(desk.server.address, timeout=1.0)
    answers = await provider.get_many(["connect://Slow/a/b", REF])
    over.set()
    assert isinstance(answers[REF], Fetched)
    assert isinstance(answers["connect://Slow/a/b"], ProviderError)
    await provider.close()


@pytest.mark.parametrize(
    ("respond", "kind"),
    [
        (lambda r: failure(401, f"Invalid token signature {CANARY}"), K.UNAUTHENTICATED),
        (lambda r: failure(429, CANARY, retry_after="7"), K.RATE_LIMITED),
        (lambda r: failure(500, CANARY), K.UNREACHABLE),
        (lambda r: HTMLResponse(CANARY, 502), K.UNREACHABLE),
        (lambda r: HTMLResponse(CANARY, 504), K.TIMEOUT),
        (lambda r: HTMLResponse(CANARY, 404), K.UNKNOWN),
        (lambda r: HTMLResponse(CANARY, 418), K.UNKNOWN),
        (lambda r: HTMLResponse(CANARY), K.UNKNOWN),
        (lambda r: RedirectResponse(f"/{CANARY}", 302), K.UNKNOWN),
        (lambda r: Response(b"", media_type="application/json"), K.UNKNOWN),
        (lambda r: Response(b'{"id": "' + CANARY.encode(), media_type="application/json"), K.UNKNOWN),
        (lambda r: Response(b"[" * 5000, media_type="application/json"), K.UNKNOWN),
        (lambda r: JSONResponse([CANARY]), K.UNKNOWN),
        (lambda r: JSONResponse(None), K.UNKNOWN),
        (lambda r: JSONResponse({"id": new_id(), "version": 1}), K.UNKNOWN),
    ],
)
async def test_failures_are_told_apart_and_not_repeated(desk: Desk, respond: Fault, kind: FailureKind) -> None:
    """Each answer has its kind, a hint, no context, and none of the server's words."""
    error = await desk.refused(respond)
    assert error.kind is kind
    assert error.hint
    assert error.__context__ is None
    assert CANARY not in everything_said(error)
    assert error.retry_after == (7000 if kind is K.RATE_LIMITED else None)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/items/", {"version": "1"}),
        ("/items/", {"version": -1}),
        ("/items/", {"version": None}),
        ("/items/", {"fields": {"key": CANARY}}),
        ("/items/", {"fields": [{"id": "a", "label": "key", "value": [CANARY]}]}),
        ("/items/", {"fields": [{"id": "a", "label": "key", "value": 7}]}),
        ("/items/", {"fields": [CANARY]}),
        ("/items/", {"files": [{"id": "../../x", "name": "key", "size": 1}]}),
        ("/items/", {"id": "../../../health"}),
        ("/items/", {"sections": CANARY}),
    ],
)
async def test_json_of_wrong_types_is_refused(desk: Desk, path: str, changes: dict[str, Any]) -> None:
    """An item that is not of the documented form is `UNKNOWN`, and nothing of it is repeated."""
    error = await desk.refused(lambda request: JSONResponse({**desk.item, **changes}), of=path)
    assert error.kind is K.UNKNOWN
    assert CANARY not in everything_said(error)


@pytest.mark.parametrize("entry", [{"id": "../../x", "title": "api"}, {"id": 7}, {"title": "api"}, "x", None])
async def test_lists_of_wrong_types_are_refused(desk: Desk, entry: object) -> None:
    """An id that is none never becomes part of an address."""
    desk.server.fault = lambda request: JSONResponse([entry]) if request.url.path.endswith("/items") else None
    assert (await failure_of(desk.get(REF))).kind is K.UNKNOWN


async def test_json_must_be_said_to_be_json(desk: Desk) -> None:
    """What something in between says is a page is not read as an item."""
    page = Response(json.dumps(desk.item).encode(), media_type="text/html")
    assert (await desk.refused(lambda request: page)).kind is K.UNKNOWN


async def test_a_packed_answer_is_refused(desk: Desk) -> None:
    """None was asked for, and what it would unpack to has no bound."""
    body = gzip.compress(json.dumps(desk.item).encode())
    packed = Response(body, headers={"content-encoding": "gzip"}, media_type="application/json")
    assert (await desk.refused(lambda request: packed)).kind is K.UNKNOWN


async def test_a_redirect_leads_nowhere(desk: Desk) -> None:
    """The other server sees neither a request nor the token."""
    with LoopbackServer(answer(200)).running() as other:
        error = await desk.refused(lambda request: RedirectResponse(other.address + request.url.path, 307))
    assert error.kind is K.UNKNOWN
    assert other.requests == []


async def test_a_forbidden_vault_costs_the_others_nothing(desk: Desk) -> None:
    """A vault that the token may not see is `FORBIDDEN` for its references alone; so is one whose id is unknown."""
    other = Vault("Other")
    desk.server.vaults[other.id] = other
    desk.server.forbidden.add(other.id)
    refs = ["connect://Other/a/b", f"connect://{other.id}/{'a' * 26}/b", f"connect://{'b' * 26}/a/b", REF]
    found = await desk.get(*refs)
    kinds = [each.kind for each in found if isinstance(each, ProviderError)]
    assert kinds == [K.FORBIDDEN, K.FORBIDDEN, K.NOT_FOUND]
    assert isinstance(found[-1], Fetched)


async def test_a_failing_item_costs_the_others_nothing(desk: Desk) -> None:
    """A server error for one item is that item's; only when all fail does it hold for the call."""
    bad = desk.vault.add("bad", {"x": "x"})
    desk.server.fault = lambda request: failure(500, "x") if bad["id"] in request.url.path else None
    found = await desk.get("connect://Agents/bad/x", REF)
    assert isinstance(found[0], ProviderError)
    assert found[0].kind is K.UNREACHABLE
    assert isinstance(found[1], Fetched)


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def write_junk(handler: BaseHTTPRequestHandler) -> None:
    """An answer that is no HTTP."""
    handler.wfile.write(b"\x00\xff" + CANARY.encode() + b"\r\n\r\n")


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Servers that cannot be talked to, by what is wrong with them."""
    hang_up = LoopbackServer(lambda handler: None)
    junk = LoopbackServer(write_junk)
    tls = LoopbackServer(answer(200), tls_of_nobody(tmp_path))
    with hang_up.running(), junk.running(), tls.running():
        yield {
            "down": closed_port(),
            "hangs up": hang_up.address,
            "junk": junk.address,
            "untrusted": tls.address,
            "no TLS": hang_up.address.replace("http:", "https:"),
            "no such host": "https://connect.invalid",
        }


async def test_a_server_that_cannot_be_talked_to_is_unreachable(addresses: dict[str, str]) -> None:
    """However it fails: typed, with a hint, and without its words or address."""
    for what, address in addresses.items():
        provider = provider_of(address)
        error = await failure_of(provider.get_many([REF]))
        assert (what, error.kind) == (what, K.UNREACHABLE)
        assert ("ca_file" in error.hint) == (what == "untrusted")
        assert CANARY not in everything_said(error)
        assert address not in everything_said(error)
        health = await provider.health()
        assert not health.ok
        assert health.hint
        await provider.close()


async def test_a_certificate_of_ones_own_authority_is_trusted(tmp_path: Path) -> None:
    """With `ca_file` the TLS of the operator's own certificate is taken; a file without certificates is explained."""
    with LoopbackServer(answer(401), tls_of_nobody(tmp_path)).running() as server:
        provider = provider_of(server.address, ca_file=tmp_path / "server.pem")
        assert (await failure_of(provider.get_many([REF]))).kind is K.UNAUTHENTICATED
        await provider.close()
    (tmp_path / "empty.pem").write_text("none")
    broken = provider_of("https://127.0.0.1:1", ca_file=tmp_path / "empty.pem")
    assert "ca_file" in (await broken.health()).detail


async def test_the_environments_proxy_is_not_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to the operator's address and nowhere else."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, closed_port())
    assert isinstance((await desk.get(REF))[0], Fetched)


async def test_cancelled_requests_leave_it_usable(desk: Desk) -> None:
    """Calls that are given up while the server works do not use up the turns."""
    over = asyncio.Event()

    async def hang(request: Request) -> Response | None:
        await over.wait()
        return None

    desk.server.fault = hang
    calls = [asyncio.create_task(desk.get(REF)) for _ in range(3 * CONCURRENCY)]
    while desk.server.under_way < CONCURRENCY:  # noqa: ASYNC110  # a count has no event
        await asyncio.sleep(0.001)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    over.set()
    assert isinstance((await desk.get(REF))[0], Fetched)
