"""Hostile input: whatever comes in, a parser gives a value or a `WireError`, in bounded memory and steps."""

import base64
import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OKPKey

from agent_sdk.wire import audit, certificate, codec, keynames, messages, names, sealing
from agent_sdk.wire.audit_chain import ChainVerifier
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier, TrustAnchor, sign_token

NOW = 1_800_000_000_000
SEED = bytes([7]) * 32
PUBLIC = sealing.run_public_key(SEED)
VERIFIER = TokenVerifier([TrustAnchor("orchestrator", PUBLIC, frozenset({"claude"}), 3600)])
ID = bytes(16)
REQUEST = messages.encode_request(messages.Request(ID, NOW, NOW + 1, "a.b.c", messages.Resolve(("a.b",), "why", 60)))
REPLY = messages.REPLY.encode(messages.Reply(ID, "ok", results=(messages.Result("a", "granted", value=b"v"),)))
NOTICE = messages.NOTICE.encode(messages.Notice("secret_rotated", NOW, name="a"))
CERTIFICATE = certificate.issue_certificate(SEED, PUBLIC, NOW - 1, NOW + 1, "worker-1")
ENVELOPE = sealing.Sealer(sealing.Kind.REQUEST, SEED, b"intakeid", PUBLIC, "sb:req:{a}").seal(b"text", bytes(24))
LINE = audit.encode_line(
    audit.AuditRecord(v=1, event="access", timestamp="2027-01-15T08:00:00.000Z", purpose="why"),
    "worker-1",
    "0123456789abcdef",
    0,
    audit.GENESIS,
)
BYTE_PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "parse_envelope": (sealing.parse_envelope, ENVELOPE),
    "decode_request": (messages.decode_request, REQUEST),
    "REPLY.decode": (messages.REPLY.decode, REPLY),
    "NOTICE.decode": (messages.NOTICE.decode, NOTICE),
    "verify_certificate": (lambda raw: certificate.verify_certificate(raw, PUBLIC, NOW), CERTIFICATE),
    "pinned identity": (lambda raw: certificate.verify_certificate(CERTIFICATE, raw, NOW), PUBLIC),
    "decode_line": (audit.decode_line, LINE),
    "ChainVerifier": (lambda raw: ChainVerifier(PUBLIC, "0" * 16, "w").feed(raw, "log", 1), LINE),
    "unpad": (codec.unpad, codec.pad(b"text")),
    "run_exchange_public": (sealing.run_exchange_public, PUBLIC),
    "secret of derive_key": (lambda raw: sealing.derive_key(sealing.Kind.REPLY, raw, PUBLIC, PUBLIC, PUBLIC), SEED),
    "sender of derive_key": (lambda raw: sealing.derive_key(sealing.Kind.REPLY, SEED, raw, PUBLIC, PUBLIC), PUBLIC),
    "recipient of derive_key": (lambda raw: sealing.derive_key(sealing.Kind.REPLY, SEED, PUBLIC, raw, PUBLIC), PUBLIC),
    "peer of derive_key": (lambda raw: sealing.derive_key(sealing.Kind.REPLY, SEED, PUBLIC, PUBLIC, raw), PUBLIC),
    "key of open_envelope": (
        lambda raw: sealing.open_envelope(raw, ENVELOPE, sealing.parse_envelope(ENVELOPE), "sb:req:{a}"),
        SEED,
    ),
    "bytes of open_envelope": (
        lambda raw: sealing.open_envelope(SEED, raw, sealing.parse_envelope(ENVELOPE), "sb:req:{a}"),
        ENVELOPE,
    ),
}
TEXT_PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "check_secret_name": (names.check_secret_name, "openai.api_key"),
    "check_agent_id": (names.check_agent_id, "random-script"),
    "check_run_id": (names.check_run_id, "run-1"),
    "NamePattern": (names.NamePattern, "github.**"),
    "agent_of_requests": (keynames.agent_of_requests, "sb:req:{claude}"),
    "TokenVerifier.verify": (lambda text: VERIFIER.verify(text, NOW), ""),
    "key name of open_envelope": (
        lambda text: sealing.open_envelope(SEED, ENVELOPE, sealing.parse_envelope(ENVELOPE), text),
        "sb:req:{a}",
    ),
}
anything = st.characters(exclude_categories=[])  # lone surrogates as well


def _damage(data: st.DataObject, good: bytes) -> bytes:
    """Good bytes with up to four of them replaced, cut off or added, or bytes that were never good."""
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, max(0, len(raw) - 1)))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=6))
    return data.draw(st.sampled_from([bytes(raw), bytes(raw)[: len(raw) // 2]]) | st.binary(max_size=400))


@pytest.mark.parametrize("parser", BYTE_PARSERS)
@given(data=st.data())
def test_bytes_give_a_value_or_a_wire_error(parser: str, data: st.DataObject) -> None:
    """No bytes make a parser raise anything else."""
    parse, good = BYTE_PARSERS[parser]
    with contextlib.suppress(WireError):
        parse(_damage(data, good))


@pytest.mark.parametrize("parser", BYTE_PARSERS)
def test_the_fuzzed_bytes_start_from_something_good(parser: str) -> None:
    """The undamaged sample parses, so damage reaches every depth of the parser."""
    parse, good = BYTE_PARSERS[parser]
    parse(good)


@pytest.mark.parametrize("parser", TEXT_PARSERS)
@given(text=st.text(anything, max_size=300), good=st.booleans())
@example(text="\ud800", good=False)
@example(text="\ud800", good=True)
def test_text_gives_a_value_or_a_wire_error(parser: str, text: str, good: bool) -> None:
    """No text makes a check raise anything else, lone surrogates included."""
    parse, sample = TEXT_PARSERS[parser]
    with contextlib.suppress(WireError):
        parse(sample + text if good else text)


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(anything, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
claim_names = st.sampled_from(["iss", "sub", "agent_id", "run_id", "iat", "exp", "jti", "task", "scope", "cnf", "nbf"])


@settings(max_examples=200)
@given(st.dictionaries(claim_names, json_value, max_size=4), st.dictionaries(st.just("jwk"), json_value))
def test_claims_give_an_identity_or_a_wire_error(claims: dict[str, object], cnf: dict[str, object]) -> None:
    """Claims that a trusted issuer signed, of any type and shape, never raise anything else."""
    good = {
        "iss": "orchestrator",
        "sub": "spiffe://secret-broker.local/agent/claude/run/run-1",
        "agent_id": "claude",
        "run_id": "run-1",
        "iat": NOW // 1000,
        "exp": NOW // 1000 + 60,
        "jti": "t",
        "cnf": cnf,
    }
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _b64(PUBLIC), "d": _b64(SEED)})
    header = {"alg": "Ed25519", "typ": "wit+jwt", "kid": key.thumbprint()}
    plain = json.loads(json.dumps({**good, **claims}))
    try:
        token = jwt.encode(header, plain, key, algorithms=["Ed25519"])
    except UnicodeEncodeError:
        return
    with contextlib.suppress(WireError):
        VERIFIER.verify(token, NOW)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


ANNOUNCED = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
}
MEBIBYTE = 2**20


def _peak(action: Callable[[], object]) -> int:
    with contextlib.suppress(WireError):
        action()  # what is allocated once, such as the message of an error, is allocated before
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("announced", ANNOUNCED)
@pytest.mark.parametrize("parser", ["parse_envelope", "decode_request", "REPLY.decode", "NOTICE.decode"])
def test_an_announced_length_allocates_nothing(parser: str, announced: str) -> None:
    """A header that promises four gigabytes is refused before memory is taken for them, wherever it stands."""
    parse, good = BYTE_PARSERS[parser]
    for place in range(len(good)):
        raw = good[:place] + ANNOUNCED[announced] + good[place:]
        assert _peak(lambda raw=raw: parse(raw)) < MEBIBYTE, place  # type: ignore[misc]  # mypy knows no defaults here


@pytest.mark.parametrize("parser", ["parse_envelope", "decode_request", "REPLY.decode", "NOTICE.decode"])
@pytest.mark.parametrize("byte", [0x81, 0x91, 0x92, 0xC1, 0xDC, 0xDE])
def test_a_message_of_one_byte_repeated_takes_little_memory(parser: str, byte: int) -> None:
    """Nesting as deep as the size cap allows costs no more than a multiple of the message."""
    parse, _ = BYTE_PARSERS[parser]
    raw = bytes([byte]) * (codec.MAX_PLAINTEXT if parser != "parse_envelope" else codec.MAX_ENVELOPE)
    assert _peak(lambda: parse(raw)) < 4 * MEBIBYTE


@pytest.mark.parametrize(
    ("parser", "limit"),
    [
        ("parse_envelope", 256 * 1024),
        ("decode_request", 252 * 1024),
        ("REPLY.decode", 252 * 1024),
        ("NOTICE.decode", 252 * 1024),
        ("verify_certificate", 512),
        ("decode_line", 8192),
    ],
)
def test_a_size_cap_is_exact(parser: str, limit: int) -> None:
    """One byte over the cap is `too_large`; at the cap the content is what counts."""
    parse, _ = BYTE_PARSERS[parser]
    codes = []
    for size in (limit, limit + 1):
        with pytest.raises(WireError) as caught:
            parse(bytes(size))
        codes.append(caught.value.code)
    assert codes == [Code.INVALID, Code.TOO_LARGE]


HOSTILE_NAMES = ["a" * 127 + "!", "a_" * 63 + "!", "a-_" * 42 + "!", "a." * 63 + "!", "_" * 127 + "!", "a" + "-_" * 63]


@pytest.mark.parametrize("pattern", ["**", "*." * 63 + "*", "*." * 60 + "**", "a_" * 60 + "a", "*.a." * 20 + "**"])
def test_patterns_look_at_each_character_once(pattern: str) -> None:
    """No part of a compiled pattern can give characters back to another, so matching never goes exponential.

    Every star is a run of characters without a dot and is followed by a dot or the end, and only the closing
    double star may hold dots: there is one way at most to divide a name.
    """
    compiled = names.NamePattern(pattern)._regex.pattern
    loose = compiled.count("[a-z0-9_.-]+")
    assert loose <= 1
    assert not loose or compiled.endswith("[a-z0-9_.-]+")
    rest = compiled.removesuffix("[a-z0-9_.-]+")
    assert all(match.end() == len(compiled) or compiled[match.end()] == "\\" for match in re.finditer(r"\]\+", rest))


@pytest.mark.parametrize("check", [names.check_secret_name, names.NamePattern])
@pytest.mark.parametrize("text", HOSTILE_NAMES)
def test_a_hostile_name_of_full_length_is_refused(check: Callable[[str], object], text: str) -> None:
    """Names made to send a backtracking matcher around in circles are refused like any other."""
    with pytest.raises(WireError):
        check(text)


@pytest.mark.parametrize("check", [check for check, _ in TEXT_PARSERS.values()])
def test_an_endless_text_is_refused_in_a_short_message(check: Callable[[str], object]) -> None:
    """The message of an error does not grow with the input."""
    with pytest.raises(WireError) as caught:
        check("sb:req:{" + "a" * 1_000_000 + "}")
    assert len(str(caught.value)) < 400


def test_a_token_is_refused_by_its_length_before_it_is_read() -> None:
    """A token over the cap is not decoded, however good it looks."""
    identity = VERIFIER.verify(_token(), NOW)
    assert identity.agent_id == "claude"
    with pytest.raises(WireError, match="longer than 4096"):
        VERIFIER.verify(_token() + "a" * 4096, NOW)


def _token() -> str:
    return sign_token(SEED, RunIdentity("orchestrator", "claude", "run-1", PUBLIC, "t", NOW, NOW + 60_000))
