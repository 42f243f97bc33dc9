"""Requests that are decoded with what is remembered of earlier ones mean what they mean without."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_sdk.wire import request_decoder
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import ListNames, Put, Request, Resolve, decode_request, encode_request
from agent_sdk.wire.request_decoder import RequestDecoder

NOW = 1_790_000_000_000
TIMES = st.integers(0, 2**53 - 1) | st.integers(2**32 - 2, 2**32 + 2) | st.integers(NOW, NOW + 10)
BODIES = st.sampled_from(
    [
        Resolve(("openai.api_key",), "tests"),
        Resolve(("a", "b"), ttl=5),
        Resolve(("a", "b"), ways=("env", "file")),
        Resolve(("a", "b"), ways=("file", "env")),
        Resolve(("a", "b"), ways=("env", "env")),
        ListNames(),
        Put("a", b"a-value", "tests"),
    ]
)
REQUESTS = st.builds(
    Request, st.binary(min_size=16, max_size=16), TIMES, TIMES, st.sampled_from(["t", "u" * 600]), BODIES
)


def outcome(decode: object, raw: bytes) -> object:
    """What a decoder makes of bytes: a request, or why not."""
    try:
        return decode(raw)  # type: ignore[operator]  # either decoder
    except WireError as error:
        return str(error), error.reason


def raw_request(number: int, **changes: object) -> bytes:
    """A request as a run sends it again and again."""
    fields = {"issued_at": NOW + number, "deadline": NOW + number + 9, "token": "t", "body": Resolve(("a",), "tests")}
    return encode_request(Request(number.to_bytes(16, "big"), **{**fields, **changes}))  # type: ignore[arg-type]  # of any field


@given(st.lists(REQUESTS, min_size=1, max_size=6))
def test_whatever_was_decoded_before_a_request_means_the_same(requests: list[Request]) -> None:
    """Any requests in any order, each twice: the same request, or the same refusal."""
    decoder = RequestDecoder()
    for request in [*requests, *requests]:
        raw = encode_request(request)
        assert outcome(decoder.decode, raw) == outcome(decode_request, raw)


@given(st.integers(0, 80), st.integers(0, 255), st.integers(0, 2))
@example(0, 0x84, 0)
def test_no_changed_byte_is_let_through_because_the_rest_is_known(place: int, byte: int, cut: int) -> None:
    """One byte of the start changed, or some missing: what `decode_request` refuses is refused."""
    decoder = RequestDecoder()
    decoder.decode(raw_request(1))
    raw = bytearray(raw_request(2))
    raw[place] = byte
    changed = bytes(raw[cut:])
    assert outcome(decoder.decode, changed) == outcome(decode_request, changed)


def test_what_is_known_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request of a run for the same is taken without the whole decoder."""
    decoder = RequestDecoder()
    first = decoder.decode(raw_request(1))
    monkeypatch.setattr(request_decoder, "decode_request", None)
    second = decoder.decode(raw_request(2))
    assert second.request_id != first.request_id
    assert second.body is first.body


def test_no_value_is_remembered() -> None:
    """An operation that carries a value leaves nothing behind."""
    decoder = RequestDecoder()
    decoder.decode(raw_request(1, body=Put("a", b"canary", "tests")))
    assert not decoder._known


def test_what_was_added_first_is_forgotten_first() -> None:
    """A decoder holds as much as it was told."""
    decoder = RequestDecoder(limit=2)
    for number, token in enumerate("abc"):
        decoder.decode(raw_request(number, token=token))
    assert [token for token, _ in decoder._known.values()] == ["b", "c"]


def test_a_request_with_a_long_rest_is_not_remembered() -> None:
    """Nobody can fill the memory with long tokens."""
    decoder = RequestDecoder()
    decoder.decode(raw_request(1, token="t" * 4090))
    assert not decoder._known
