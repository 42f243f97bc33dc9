"""Properties of envelopes: they open as they are, at their own place, with their own key, or not at all."""

import functools
from contextlib import suppress

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent_sdk.wire import keynames, sealing
from agent_sdk.wire.codec import MAX_PLAINTEXT, PAD_BLOCK
from agent_sdk.wire.errors import Code, WireError

RUN_SEED, INTAKE = bytes([1]) * 32, bytes([4]) * 32
RUN = sealing.run_public_key(RUN_SEED)
STREAM = keynames.requests("claude")


@functools.cache
def _key(kind: sealing.Kind) -> bytes:
    run = sealing.run_exchange_public(RUN)
    intake = sealing.run_exchange_public(sealing.run_public_key(INTAKE))
    secret = sealing.run_exchange_secret(INTAKE)
    if kind is sealing.Kind.REQUEST:
        return sealing.derive_key(kind, secret, run, intake, run)
    return sealing.derive_key(kind, secret, intake, run, run)


def _seal(plaintext: bytes, nonce: bytes = bytes(24), stream: str = STREAM) -> bytes:
    kind = sealing.Kind.REQUEST
    return sealing.Sealer(kind, _key(kind), b"intakeid", RUN, stream).seal(plaintext, nonce)


def _open(raw: bytes, stream: str = STREAM) -> bytes:
    return sealing.open_envelope(_key(sealing.Kind.REQUEST), raw, sealing.parse_envelope(raw), stream)


def _opens(raw: bytes, stream: str = STREAM) -> bool:
    try:
        _open(raw, stream)
    except WireError:
        return False
    return True


@given(st.integers(1, 3), st.binary(min_size=8, max_size=64), st.binary(min_size=16, max_size=2000))
def test_an_envelope_that_parses_encodes_to_the_same_bytes(kind: int, key_id: bytes, ciphertext: bytes) -> None:
    """An envelope has one encoding."""
    raw = msgspec.msgpack.encode([1, kind, key_id, RUN, bytes(24), ciphertext])
    assert msgspec.msgpack.encode(sealing.parse_envelope(raw)) == raw


@given(st.binary(max_size=600), st.binary(min_size=24, max_size=24))
@example(b"", bytes(24))
@example(b"\x80\x00", bytes(24))
def test_a_sealed_value_comes_out_whole(plaintext: bytes, nonce: bytes) -> None:
    """Any bytes survive sealing and opening."""
    assert _open(_seal(plaintext, nonce)) == plaintext


def test_the_largest_plaintext_fits_and_one_byte_more_does_not() -> None:
    """The size cap is exact."""
    largest = bytes(MAX_PLAINTEXT - 1)
    assert _open(_seal(largest)) == largest
    with pytest.raises(WireError, match="at most 258047 fit") as caught:
        _seal(largest + b"x")
    assert caught.value.code is Code.TOO_LARGE


def test_no_changed_bit_of_an_envelope_opens() -> None:
    """Every single bit of an envelope is authenticated or part of its one encoding."""
    raw = _seal(b"question")
    survivors = [
        (place, bit)
        for place in range(len(raw))
        for bit in range(8)
        if _opens(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
    ]
    assert survivors == []


@given(st.data())
def test_no_replaced_stretch_of_an_envelope_opens(data: st.DataObject) -> None:
    """Whatever is written over any part of an envelope, it opens only if nothing changed."""
    raw = _seal(b"question")
    place = data.draw(st.integers(0, len(raw) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=40))
    changed = raw[:place] + patch + raw[place + len(patch) :]
    assume(changed != raw)
    assert not _opens(changed)


def test_no_shortened_or_lengthened_envelope_opens() -> None:
    """An envelope that lost bytes at either end, or gained some, does not open."""
    raw = _seal(b"question")
    cut = [raw[:size] for size in range(len(raw))] + [raw[size:] for size in range(1, len(raw))]
    longer = [raw + bytes([byte]) for byte in range(256)] + [bytes([byte]) + raw for byte in range(256)]
    assert [changed for changed in cut + longer if _opens(changed)] == []


@given(st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True))
def test_an_envelope_opens_at_its_own_place_only(agent: str) -> None:
    """A message that is moved to another stream does not open there."""
    assume(agent != "claude")
    raw = _seal(b"question")
    assert _opens(raw)
    assert not _opens(raw, keynames.requests(agent))
    assert not _opens(raw, keynames.replies("claude", agent))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_each_direction_has_a_key_of_its_own(run_seed: bytes, broker_seed: bytes) -> None:
    """Between the same two keys, requests, replies and notices use three keys, and both sides find them."""
    run, broker = (sealing.run_exchange_public(sealing.run_public_key(seed)) for seed in (run_seed, broker_seed))
    keys = set()
    for kind in sealing.Kind:
        ends = (run, broker) if kind is sealing.Kind.REQUEST else (broker, run)
        mine = sealing.derive_key(kind, sealing.run_exchange_secret(run_seed), *ends, peer=broker)
        theirs = sealing.derive_key(kind, sealing.run_exchange_secret(broker_seed), *ends, peer=run)
        assert mine == theirs
        keys.add(mine)
    assert len(keys) == 3


def test_the_negated_run_key_does_not_open() -> None:
    """A run key and its negation share one exchange key; the envelope's header still tells them apart."""
    negated = RUN[:31] + bytes([RUN[31] ^ 0x80])
    assert sealing.run_exchange_public(negated) == sealing.run_exchange_public(RUN)
    raw = _seal(b"question")
    assert not _opens(raw.replace(RUN, negated))


@given(st.integers(0, 3), st.integers(0, PAD_BLOCK - 1), st.integers(0, PAD_BLOCK - 1))
def test_padding_hides_length_within_a_block(blocks: int, one: int, other: int) -> None:
    """Two plaintexts of one block of lengths make envelopes of one length."""
    first, second = (_seal(bytes(blocks * PAD_BLOCK + rest)) for rest in (one, other))
    assert len(first) == len(second)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_runs_have_reply_streams_of_their_own(one: bytes, other: bytes) -> None:
    """Two run keys have two fingerprints."""
    assert (keynames.fingerprint(one) == keynames.fingerprint(other)) == (one == other)


def _opener(stream: str = STREAM) -> sealing.Opener:
    kind = sealing.Kind.REQUEST
    return sealing.Opener(kind, _key(kind), b"intakeid", RUN, stream)


@given(st.integers(0, 70_000).map(bytes) | st.just(bytes(MAX_PLAINTEXT - 1)))
@example(b"")
def test_an_opener_opens_what_its_sealer_sealed(plaintext: bytes) -> None:
    """Whatever the length."""
    assert _opener().open(_seal(plaintext)) == plaintext


@given(st.data())
def test_an_opener_opens_nothing_that_is_not_an_envelope(data: st.DataObject) -> None:
    """It accepts what parsing and opening accept, and no other form of the same."""
    raw = bytearray(_seal(bytes(data.draw(st.sampled_from([1, 200, 300, 66_000])))))
    place = data.draw(st.integers(0, min(len(raw), 400) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert", "append"])):
        case "change":
            raw[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[place:]
        case "insert":
            raw.insert(place, data.draw(st.integers(0, 255)))
        case _:
            raw += bytes(place + 1)
    opened = None
    with suppress(WireError):
        opened = _opener().open(bytes(raw))
    assert opened is None


def test_an_opener_reads_only_the_shortest_form_of_a_length() -> None:
    """A length in more bytes than it needs is another encoding of the same envelope, and is refused."""
    raw = _seal(bytes(300))
    at = raw.index(bytes(24)) + 24
    assert raw[at : at + 1] == b"\xc5"
    longer = raw[:at] + b"\xc6\x00\x00" + raw[at + 1 :]
    with pytest.raises(WireError, match="canonical"):
        sealing.parse_envelope(longer)
    assert _opener().open(longer) is None


def test_an_opener_of_another_place_does_not_open() -> None:
    """The name of the stream is part of what is authenticated."""
    with pytest.raises(WireError, match="does not open"):
        _opener(keynames.requests("codex")).open(_seal(b"x"))
