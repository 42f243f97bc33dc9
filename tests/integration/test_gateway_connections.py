"""Connections to the HTTP gateway: where a request ends, how long one is waited for, and who can connect at all."""

from pathlib import Path

import pytest
from gateway_bench import HEAD, HEADERS, Reached, serving

from agent_sdk.http_server import Connection
from broker_worker.core.errors import SetupError
from broker_worker.gateway import app as gateway_app
from broker_worker.gateway.app import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMUGGLED = b'{"secrets":["openai_key"]}'
_AUTHORISED = "\r\n".join(f"{name}: {text}" for name, text in HEADERS.items()).encode() + b"\r\n"
_JSON = _AUTHORISED + b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 26\r\nTransfer-Encoding: chunked\r\n", b"411"),
        (b"Transfer-Encoding: chunked\r\n", b"411"),
        (b"Transfer-Encoding: chunked, identity\r\n", b"400"),
        (b"Transfer-Encoding : chunked\r\nContent-Length: 26\r\n", b"400"),
        (b"Content-Length: 26\r\nContent-Length: 0\r\n", b"400"),
        (b"Content-Length: +26\r\n", b"400"),
        (b"Content-Length: 0x1a\r\n", b"400"),
        (b"Content-Length: 65537\r\n", b"413"),
        (b"Content-Length: 99999999999999999999\r\n", b"413"),
        (b"", b"411"),
    ],
)
async def test_where_a_body_ends_is_never_in_doubt(gateway: Reached, head: bytes, status: bytes) -> None:
    """A length that two readers could understand differently is refused, and the connection ends."""
    chunked = b"1a\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
    body = chunked if b"chunked" in head else SMUGGLED
    answer = await gateway.raw(HEAD % gateway.port + _JSON + head + b"\r\n" + body)
    assert answer.split(b" ")[1] == status
    assert gateway.desk.requests == []


async def test_one_connection_carries_one_request(gateway: Reached) -> None:
    """What comes behind a request is not read as another one."""
    request = HEAD % gateway.port + _JSON + b"Content-Length: 26\r\n\r\n" + SMUGGLED
    answer = await gateway.raw(request + request)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(gateway.desk.requests) == 1


async def test_a_client_that_sends_nothing_is_cut(gateway: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection without a request nor one whose head never ends is kept."""
    monkeypatch.setattr(Connection, "head_seconds", 0.02)
    assert await gateway.raw(b"") == b""
    assert await gateway.raw(b"POST /v1/secrets/resolve HTTP/1.1\r\nHost: ") == b""


async def test_a_body_that_does_not_come_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, and may ask again."""
    monkeypatch.setattr(Gateway.__init__, "__defaults__", (0.02,))
    async with serving() as gateway:
        answer = await gateway.raw(HEAD % gateway.port + _JSON + b"Content-Length: 26\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"timeout"' in answer


async def test_a_head_of_too_many_bytes_is_refused(gateway: Reached) -> None:
    """Before it is read to its end."""
    answer = await gateway.raw(HEAD % gateway.port + b"X: " + b"x" * 40_000)
    assert answer.split(b" ")[1] == b"400"


async def test_a_port_that_is_taken_is_an_error_with_a_hint(gateway: Reached) -> None:
    """And not a gateway somewhere else."""
    from broker_worker.loopback import listening  # noqa: PLC0415  # only this test listens by itself

    with pytest.raises(SetupError, match="cannot be used") as caught, listening(gateway.port, ("127.0.0.1",), "choose"):
        pass
    assert caught.value.hint == "choose"


async def test_it_listens_on_this_host_alone() -> None:
    """The folder of the package never binds an address of a network."""
    text = "".join(path.read_text() for path in Path(gateway_app.__file__).parent.glob("*.py"))
    assert "0.0.0.0" not in text
