"""The one way out of the MCP server: whatever a tool returns, no message holds a value."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCResponse
from starlette.types import Message

from agent_sdk.mcp_server.clipping import SHOWN, shown
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.http_outlet import HttpOutlet
from agent_sdk.mcp_server.outlet import WITHHELD, MaskedStream, Outlet
from agent_sdk.mcp_server.quiet_log import MaskedFormatter

VALUE = "Zk9-wq7Lm2xP4"
DIGITS = "4711081547110815"


@pytest.fixture
def held() -> HeldValues:
    made = HeldValues()
    made.add("some.key", VALUE.encode())
    made.add("some.number", DIGITS.encode())
    return made


def answer(result: Any) -> dict[str, Any]:
    """A response with some result."""
    return {"jsonrpc": "2.0", "id": 7, "result": result}


def test_texts_are_masked_wherever_they_stand(held: HeldValues) -> None:
    """Deep in lists and objects, and as a name."""
    message = answer({"content": [{"text": f"a {VALUE} b"}], VALUE: [[VALUE]]})
    assert Outlet(held).masked(message) == answer(
        {"content": [{"text": "a [masked some.key] b"}], "[masked some.key]": [["[masked some.key]"]]}
    )


def test_what_holds_no_value_passes_as_it_is(held: HeldValues) -> None:
    """Not a byte of it is changed."""
    body = b'{"jsonrpc": "2.0",  "id": 7, "result": {"n": 1.50}}'
    assert Outlet(held).masked_json(body) is body


def test_a_value_that_is_no_text_withholds_the_answer(held: HeldValues) -> None:
    """A number cannot be masked and stay one, so an error stands for the message."""
    fit = Outlet(held).masked(answer({"n": int(DIGITS)}))
    assert (fit["id"], fit["error"]["message"]) == (7, WITHHELD)
    assert "result" not in fit


def test_a_notification_with_a_value_in_it_leaves_empty(held: HeldValues) -> None:
    """There is no one to answer; its kind alone goes out."""
    fit = Outlet(held).masked({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"n": int(DIGITS)}})
    assert fit == {"jsonrpc": "2.0", "method": "notifications/progress"}


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.just(VALUE) | st.just(f'"{VALUE}\\'),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(VALUE), inner, max_size=3),
        max_leaves=8,
    )
)
def test_no_message_holds_a_value(result: Any) -> None:
    """Whatever a result is made of, in neither way of writing JSON."""
    held = HeldValues()
    held.add("some.key", VALUE.encode())
    body = Outlet(held).masked_json(json.dumps(answer(result)).encode())
    assert VALUE.encode() not in body
    assert json.loads(body)["id"] == 7


async def test_the_stream_of_standard_output_passes_it(held: HeldValues) -> None:
    """Answers and notifications alike, whatever part of the MCP package wrote them."""
    sent: list[SessionMessage] = []

    class Collecting:
        async def send(self, item: SessionMessage) -> None:
            sent.append(item)

        async def aclose(self) -> None:
            pass

    stream = MaskedStream(Collecting(), Outlet(held))
    await stream.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": VALUE})))
    await stream.send(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="x", params={"message": VALUE})))
    assert VALUE not in repr(sent)
    assert "[masked some.key]" in repr(sent)


async def over_http(held: HeldValues, content_type: str, *chunks: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """An answer as a client gets it: its headers and its body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, chunks))).encode()
        headers = [(b"content-type", content_type.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, chunk in enumerate(chunks, 1):
            await send({"type": "http.response.body", "body": chunk, "more_body": number < len(chunks)})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await HttpOutlet(app, Outlet(held))({"type": "http"}, receive, send)
    return dict(sent[0]["headers"]), b"".join(each["body"] for each in sent[1:])


async def test_an_answer_over_http_is_masked_whole(held: HeldValues) -> None:
    """Also when it comes in pieces that cut the value; its length is told anew."""
    raw = json.dumps(answer({"text": f"{VALUE}!"})).encode()
    cut = raw.index(VALUE.encode()) + 4
    headers, body = await over_http(held, "application/json", raw[:cut], raw[cut:])
    assert json.loads(body) == answer({"text": "[masked some.key]!"})
    assert int(headers[b"content-length"]) == len(body)


async def test_events_over_http_are_masked_one_by_one(held: HeldValues) -> None:
    """Other fields and comments pass; an event that is cut in two is looked at when it is whole."""
    raw = f": ping\r\n\r\nevent: message\r\ndata: {json.dumps(answer({'text': VALUE}))}\r\n\r\n".encode()
    cut = raw.index(VALUE.encode()) + 4
    _, body = await over_http(held, "text/event-stream; charset=utf-8", raw[:cut], raw[cut:], b"data: \r\n")
    lines = body.split(b"\r\n")
    assert lines[0:3] == [b": ping", b"", b"event: message"]
    assert json.loads(lines[3].removeprefix(b"data: ")) == answer({"text": "[masked some.key]"})


async def test_what_is_no_message_is_masked_as_it_is(held: HeldValues) -> None:
    """An error page of the server's own."""
    _, body = await over_http(held, "text/plain", f"cannot: {VALUE}".encode())
    assert body == b"cannot: [masked some.key]"


def test_a_log_line_holds_neither_value_nor_traceback(held: HeldValues) -> None:
    """Whatever a library logs: one line, and of an exception its type."""
    try:
        int(VALUE)
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("mcp", logging.ERROR, __file__, 1, "broke at %s\n", (VALUE,), trouble)
    assert MaskedFormatter(held).format(record) == "error: mcp: broke at [masked some.key]\\n (ValueError)"


def test_an_older_value_of_a_name_is_still_searched_for() -> None:
    """A rotation, an expiry or a release takes nothing out."""
    held = HeldValues()
    held.add("some.key", b"the-older-value-1")
    held.add("some.key", b"the-newer-value-2")
    assert b"value" not in held.mask(b"the-older-value-1 the-newer-value-2")


def test_a_value_that_cannot_be_found_is_told() -> None:
    """So that it is not handed to a program whose output a model reads."""
    held = HeldValues()
    assert not held.add("tiny.pin", b"12")
    assert not held.add("tiny.pin", b"12")
    assert held.add("some.key", VALUE.encode())


def test_output_is_masked_before_it_is_cut() -> None:
    """No part of a value is left at an edge, neither of what is shown nor of what was read."""
    held = HeldValues()
    held.add("some.key", VALUE.encode())
    data = (VALUE.encode() * 10_000)[: 3 * SHOWN]
    text, left_out = shown(data, len(data) + 500, held)
    assert VALUE[:5] not in text
    assert len(text) < SHOWN + 100
    assert left_out > 500
    assert f"[{left_out} bytes left out]" in text


def test_output_that_fits_is_shown_whole() -> None:
    """With what is no text replaced."""
    assert shown(b"a\xff", 2, HeldValues()) == ("a\ufffd", 0)
