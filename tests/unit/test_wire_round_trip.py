"""Properties of names, messages, padding and audit lines: one encoding for each value, and it survives."""

import string
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_sdk.request import asked_again, checked_resolve
from agent_sdk.wire import audit, keynames, messages
from agent_sdk.wire.codec import pad, unpad
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.names import NamePattern, check_agent_id, check_run_id, check_secret_name

part = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
joined = st.lists(part, min_size=1, max_size=4).map("_".join)
secret_name = st.lists(joined, min_size=1, max_size=4).map(".".join).filter(lambda text: len(text) <= 128)
identifier = secret_name.filter(lambda text: len(text) <= 64)
time = st.integers(0, messages.MAX_TIME)
sixteen = st.binary(min_size=16, max_size=16)
lease = st.binary(min_size=17, max_size=512)
approval = st.binary(min_size=8, max_size=8)
purpose = st.text(max_size=messages.MAX_PURPOSE)
value = st.binary(max_size=600)
names = st.lists(secret_name, min_size=1, max_size=messages.MAX_NAMES, unique=True).map(tuple)
way = st.sampled_from(get_args(messages.Way))
delivery = st.sampled_from(get_args(messages.Delivery))
own_delivery = st.sampled_from(get_args(messages.OwnDelivery))
operation = st.one_of(
    st.builds(
        messages.Resolve,
        names,
        purpose,
        st.none() | st.integers(1, messages.MAX_TTL_SECONDS),
        delivery,
    ),
    st.builds(
        lambda ways: messages.Resolve(tuple(ways), ways=tuple(ways.values())),
        st.dictionaries(secret_name, own_delivery, min_size=2, max_size=messages.MAX_NAMES).filter(
            lambda ways: len(set(ways.values())) > 1
        ),
    ),
    st.builds(messages.Put, secret_name, value, purpose),
    st.builds(messages.Generate, secret_name, st.text(min_size=1, max_size=64), purpose),
    st.builds(messages.Renew, lease),
    st.builds(messages.Release, lease),
    st.builds(messages.ListNames),
)
request = st.builds(
    lambda request_id, first, ahead, token, body: messages.Request(request_id, first, first + ahead, token, body),
    sixteen,
    st.integers(0, 2**52),
    st.integers(1, 2**51),
    st.text(min_size=1, max_size=200),
    operation,
)
code = st.none() | st.sampled_from(Code)
result = st.builds(
    messages.Result,
    name=secret_name,
    outcome=st.sampled_from(["granted", "refused"]),
    code=code,
    value=st.none() | value,
    expires_at=st.none() | time,
    lease=st.none() | lease,
    source=st.sampled_from([None, "cache", "provider", "stale"]),
    version=st.none() | st.text(max_size=128),
    retry_after=st.none() | time,
    approval=st.none() | approval,
    age_s=st.none() | time,
)
reply = st.builds(
    messages.Reply,
    request_id=sixteen,
    status=st.sampled_from(["ok", "partial", "refused"]),
    code=code,
    retry_after=st.none() | time,
    results=st.lists(result, max_size=6).map(tuple),
    names=st.lists(secret_name, max_size=6).map(tuple),
    ways=st.lists(st.lists(way, min_size=1, max_size=4).map(tuple), max_size=6).map(tuple),
)
notice = st.builds(
    messages.Notice,
    event=st.sampled_from(["lease_revoked", "secret_rotated", "run_revoked", "approval_settled"]),
    at=time,
    name=st.none() | secret_name,
    lease_id=st.none() | sixteen,
    approval=st.none() | approval,
)


@given(request)
def test_a_request_survives_the_wire(sent: messages.Request) -> None:
    """What a run asks is what the broker reads, and it has one encoding."""
    raw = messages.encode_request(sent)
    read = messages.decode_request(raw)
    assert read == sent
    assert messages.encode_request(read) == raw


@given(names, st.data())
def test_what_is_asked_for_in_which_ways_has_one_form(asked: tuple[str, ...], data: st.DataObject) -> None:
    """However a caller says it, the broker reads for each name what was said; what could be said shorter is refused."""
    ways = {name: data.draw(own_delivery) for name in asked}
    body = checked_resolve(asked, "", None, ways)
    read = messages.decode_request(messages.encode_request(messages.Request(bytes(16), 1, 2, "t", body))).body
    assert isinstance(read, messages.Resolve)
    assert dict(zip(read.names, read.ways or [read.deliver] * len(asked), strict=True)) == ways
    assert body == checked_resolve(asked, "", None, body.deliver if not body.ways else ways)
    long = messages.Resolve(asked, ways=tuple(ways.values()))
    if long != body:
        with pytest.raises(WireError, match="deliver"):
            messages.decode_request(messages.encode_request(messages.Request(bytes(16), 1, 2, "t", long)))


@given(names.filter(lambda asked: len(asked) > 1), st.data())
def test_asking_again_for_some_names_keeps_their_ways(asked: tuple[str, ...], data: st.DataObject) -> None:
    """What is left of a request is a request of its own, in the one form that it has."""
    ways = {name: data.draw(own_delivery) for name in asked}
    some = tuple(name for name in asked if data.draw(st.booleans())) or asked[:1]
    again = asked_again(checked_resolve(asked, "why", 60, ways), some)
    assert again == checked_resolve(some, "why", 60, {name: ways[name] for name in some})


@settings(max_examples=50)  # a large one takes long to draw
@given(reply)
def test_a_reply_survives_the_wire(sent: messages.Reply) -> None:
    """What the broker answers, values included, is what the run reads, and it has one encoding."""
    raw = messages.REPLY.encode(sent)
    read = messages.REPLY.decode(raw)
    assert read == sent
    assert messages.REPLY.encode(read) == raw


@given(notice)
def test_a_notice_survives_the_wire(sent: messages.Notice) -> None:
    """A notice reads as it was written, and it has one encoding."""
    raw = messages.NOTICE.encode(sent)
    assert messages.NOTICE.decode(raw) == sent
    assert messages.NOTICE.encode(messages.NOTICE.decode(raw)) == raw


@settings(max_examples=200)
@given(request, st.data())
def test_what_parses_encodes_to_the_same_bytes(sent: messages.Request, data: st.DataObject) -> None:
    """A damaged request is refused, or is the one encoding of some other request."""
    raw = bytearray(messages.encode_request(sent))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = messages.decode_request(bytes(raw))
    except WireError:
        return
    assert messages.encode_request(read) == raw


@given(value)
def test_padding_comes_off_as_it_went_on(plaintext: bytes) -> None:
    """Padding is undone exactly, whatever the plaintext ends in."""
    assert unpad(pad(plaintext)) == plaintext


@given(st.binary(max_size=600))
def test_padding_that_is_taken_off_would_be_put_on_again(raw: bytes) -> None:
    """There is one padding of each plaintext."""
    try:
        plaintext = unpad(raw)
    except WireError:
        return
    assert pad(plaintext) == raw


optional_text = st.none() | st.text(max_size=80)
record = st.builds(
    audit.AuditRecord,
    v=st.just(1),
    event=st.sampled_from(get_args(audit.EventType)),
    timestamp=st.integers(0, 2**47).map(audit.format_time),
    agent_id=st.none() | identifier,
    purpose=optional_text,
    reason=optional_text,
    task=optional_text,
    code=code,
    outcome=st.sampled_from([None, "granted", "refused"]),
    deliver=st.none() | delivery,
    uses=st.none() | st.integers(1, 2**53),
    approver=optional_text,
    subject=optional_text,
    latency_us=st.none() | st.integers(0, 2**53),
    count=st.none() | st.integers(1, 2**53),
)


@given(record, st.integers(0, 2**53 - 1))
def test_an_audit_line_survives_the_file(written: audit.AuditRecord, sequence: int) -> None:
    """A record reads back as it was written, whatever text it holds, on one line and with one encoding."""
    line = audit.encode_line(written, "worker-1", "0123456789abcdef", sequence, audit.GENESIS)
    read = audit.decode_line(line)
    assert b"\n" not in line
    assert {name: getattr(read, name) for name in written.__struct_fields__} == msgspec.structs.asdict(written)
    assert msgspec.json.encode(read) == line


@given(identifier)
def test_names_that_are_canonical_are_taken_as_written(name: str) -> None:
    """No check changes the text that it accepts."""
    assert check_secret_name(name) == check_agent_id(name) == check_run_id(name) == name
    assert NamePattern(name).matches(name)
    assert keynames.agent_of_requests(keynames.requests(name)) == name
    assert keynames.agent_of_doorbell(keynames.doorbell(name)) == name


@given(st.text(max_size=140))
def test_a_name_that_is_accepted_is_its_own_lower_case_ascii(text: str) -> None:
    """Nothing is accepted that case folding or normalisation could turn into another name."""
    try:
        check_secret_name(text)
    except WireError:
        return
    assert text.isascii()
    assert text == text.lower() == text.strip()
    assert ".." not in text


@given(secret_name, secret_name)
def test_an_exact_pattern_covers_no_other_name(one: str, other: str) -> None:
    """A pattern without a star covers the name that it spells and nothing else."""
    assert NamePattern(one).matches(other) == (one == other)
