"""No value shows: not in a repr, not in an error's message, not in what an error drags along."""

import traceback
from collections.abc import Callable

import msgspec
import pytest

from agent_sdk.wire import audit, codec, messages, names, sealing
from agent_sdk.wire.errors import WireError

CANARY = "canary-5e1f"
RAW = CANARY.encode()
ID = bytes(16)
NOW = 1_800_000_000_000
PUT = messages.Put("github.token", RAW, CANARY)
RESULT = messages.Result("github.token", "granted", value=RAW)
HOLDERS: dict[str, msgspec.Struct] = {
    "Put": PUT,
    "Request with a put": messages.Request(ID, NOW, NOW + 1, CANARY, PUT),
    "Request with a purpose": messages.Request(ID, NOW, NOW + 1, "t", messages.Resolve(("a",), CANARY)),
    "Result": RESULT,
    "Reply": messages.Reply(ID, "ok", results=(RESULT,)),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r:.2000}".format, lambda value: f"{[value]}"])
def test_nothing_that_holds_a_value_shows_it(holder: str, show: Callable[[object], str]) -> None:
    """However a message is printed, its values, token and purpose stay out."""
    assert CANARY not in show(HOLDERS[holder])


@pytest.mark.parametrize("holder", HOLDERS)
def test_rich_shows_no_value_either(holder: str) -> None:
    """What `rich` and its tracebacks read of a message holds no value."""
    assert CANARY not in repr(HOLDERS[holder].__rich_repr__())


NO_TEXT = bytes([0xA0 + len(RAW) + 1]) + RAW + b"\xff"


def _packed(**changes: object) -> bytes:
    fields = {"request_id": ID, "issued_at": NOW, "deadline": NOW + 1, "token": "t", "body": {"op": "list"}}
    return msgspec.msgpack.encode({**fields, **changes})


def _put(**changes: object) -> bytes:
    return _packed(body={"op": "put", "name": "a", "value": b"v", **changes})


def _reply(**changes: object) -> bytes:
    return msgspec.msgpack.encode({"request_id": ID, "status": "ok", **changes})


REFUSED: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "value as an unknown field": (messages.decode_request, _put(**{CANARY: 1})),
    "value as an unknown field that mimics a place": (messages.decode_request, _packed(**{f"x` - at `$.{CANARY}": 1})),
    "value as the op": (messages.decode_request, _packed(body={"op": CANARY})),
    "value as text where bytes belong": (messages.decode_request, _put(value=CANARY)),
    "value as a name": (messages.decode_request, _packed(body={"op": "resolve", "names": [CANARY.upper(), CANARY]})),
    "value as the name of a put": (messages.decode_request, _put(name=CANARY + "!")),
    "value as a name twice": (messages.decode_request, _packed(body={"op": "resolve", "names": [CANARY, CANARY]})),
    "value beside bytes that are no text": (messages.decode_request, _put(purpose="x").replace(b"\xa1x", NO_TEXT)),
    "value in a request with a byte too many": (messages.decode_request, _put(value=RAW) + b"\x00"),
    "value in a request that is cut": (messages.decode_request, _put(value=RAW)[:-1]),
    "value in a request that is not canonical": (messages.decode_request, _put(value=RAW, purpose="")),
    "value as a code": (messages.REPLY.decode, _reply(code=CANARY)),
    "value as an outcome": (messages.REPLY.decode, _reply(results=[{"name": "a", "outcome": CANARY}])),
    "value as a field of a result": (messages.REPLY.decode, _reply(results=[{CANARY: "a"}])),
    "value as an event": (messages.NOTICE.decode, msgspec.msgpack.encode({"event": CANARY, "at": 1})),
    "value behind bad padding": (codec.unpad, RAW),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_no_error_shows_what_it_refused(refused: str) -> None:
    """Neither the message nor the printed chain of an error repeats what was in the message that it refuses."""
    parse, raw = REFUSED[refused]
    with pytest.raises(WireError) as caught:
        parse(raw)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown.casefold()
    assert CANARY not in str(caught.value).casefold()


@pytest.mark.parametrize("refused", REFUSED)
def test_no_error_keeps_what_it_refused(refused: str) -> None:
    """No decoder's own exception, which may hold the bytes, hangs behind the one that is raised."""
    parse, raw = REFUSED[refused]
    with pytest.raises(WireError) as caught:
        parse(raw)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_envelope_that_does_not_open_says_nothing_of_its_key() -> None:
    """A failed opening names neither key nor content."""
    key = RAW.ljust(32, b"k")
    raw = sealing.Sealer(sealing.Kind.REPLY, key, b"intakeid", bytes(32), "here").seal(RAW, bytes(24))
    with pytest.raises(WireError) as caught:
        sealing.open_envelope(key, raw, sealing.parse_envelope(raw), "elsewhere")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_message_that_is_too_large_is_not_quoted() -> None:
    """The error for an over-long message gives sizes only."""
    with pytest.raises(WireError, match="at most 258048 are allowed") as caught:
        messages.encode_request(
            messages.Request(ID, NOW, NOW + 1, "t", messages.Put("a", RAW * 40_000)),
        )
    assert CANARY not in str(caught.value)


def test_an_audit_event_has_no_field_that_could_hold_a_value() -> None:
    """The fields of an audit line are these and no others, so a new one is a decision."""
    assert set(audit.AuditEvent.__struct_fields__) == {
        *("v", "event", "timestamp", "agent_id", "run_id", "secret_name", "outcome", "source", "age_s", "code"),
        *("reason", "action", "deliver", "actor", "purpose", "rule", "policy", "provider", "version", "expires_at"),
        *("request_id", "entry_id"),
        *("lease_id", "lease_ends", "uses", "approval_id", "approver", "subject"),
        *("run_key", "token_id", "issuer", "task", "latency_us", "count", "signature"),
        *("route", "host", "method", "path", "status", "sent_bytes", "received_bytes", "elapsed_ms"),
        *("event_id", "worker", "chain", "sequence", "prev"),
    }


def test_a_refused_secret_name_is_not_repeated() -> None:
    """What stands by mistake where a name belongs may be a value, and the error may end in a log."""
    for check in (names.check_secret_name, names.NamePattern):
        with pytest.raises(WireError, match="is not") as caught:
            check("sk-Live-51aF")
        assert "51aF" not in str(caught.value)
