"""Properties of certificates and tokens: what was signed is what is read, and nothing else is."""

import string

import msgspec
import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire import audit, sealing
from agent_sdk.wire.certificate import SessionCertificate, issue_certificate, verify_certificate
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier, TrustAnchor, sign_token

NOW = 1_800_000_000_000
ISSUER_SEED, IDENTITY_SEED = bytes([2]) * 32, bytes([3]) * 32
RUN = sealing.run_public_key(bytes([1]) * 32)
scopes = st.none() | st.lists(st.from_regex(r"[a-z0-9]{1,9}\.(\*|\*\*|[a-z]{1,9})", fullmatch=True), max_size=5)
tasks = st.none() | st.text(string.ascii_letters, min_size=1, max_size=128)


@given(st.binary(min_size=32, max_size=32), st.integers(0, NOW), st.text(min_size=1, max_size=96))
def test_a_certificate_survives_the_wire(session: bytes, not_before: int, worker: str) -> None:
    """What the identity signed is what a client reads."""
    raw = issue_certificate(IDENTITY_SEED, session, not_before, NOW, worker)
    read = verify_certificate(raw, sealing.run_public_key(IDENTITY_SEED), NOW)
    assert (read.session_public_key, read.not_before, read.not_after, read.worker_id) == (
        session,
        not_before,
        NOW,
        worker,
    )
    assert msgspec.msgpack.encode(read) == raw


def test_no_changed_bit_of_a_certificate_verifies() -> None:
    """Every bit of a certificate is signed or part of its one encoding."""
    raw = issue_certificate(IDENTITY_SEED, bytes(32), NOW - 1, NOW + 1, "worker-1")
    identity = sealing.run_public_key(IDENTITY_SEED)
    survivors: list[SessionCertificate] = []
    for place in range(len(raw)):
        for bit in range(8):
            changed = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
            try:
                survivors.append(verify_certificate(changed, identity, NOW))
            except WireError:
                continue
    assert survivors == []


ANCHOR = TrustAnchor("orchestrator", sealing.run_public_key(ISSUER_SEED), frozenset({"claude"}), 3600)
IDENTITY = RunIdentity("orchestrator", "claude", "run-1", RUN, "token-1", NOW, NOW + 60_000, "tidy", None)


def test_no_changed_character_of_a_token_verifies() -> None:
    """Every character of a token counts, those that a lax base64 decoder would skip included."""
    verifier = TokenVerifier([ANCHOR])
    token = sign_token(ISSUER_SEED, IDENTITY)
    assert verifier.verify(token, NOW) == IDENTITY
    survivors = []
    for place, old in enumerate(token):
        for new in {"A", "B", "_", "=", ".", " ", chr(ord(old) ^ 1)} - {old}:
            try:
                verifier.verify(token[:place] + new + token[place + 1 :], NOW)
            except WireError:
                continue
            survivors.append((place, new))
    assert survivors == []


@given(scopes, tasks)
def test_a_token_says_what_its_issuer_said(scope: list[str] | None, task: str | None) -> None:
    """Signing and verifying give the same identity."""
    patterns = None if scope is None else tuple(map(NamePattern, scope))
    identity = RunIdentity("orchestrator", "claude", "run-1", RUN, "token-1", NOW, NOW + 60_000, task, patterns)
    assert TokenVerifier([ANCHOR]).verify(sign_token(ISSUER_SEED, identity), NOW) == identity


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_pinned_identity_of_another_length_never_reaches_libsodium(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature binding reads 32 bytes whatever it is given, so a shorter key must not come that far."""
    asked: list[bytes] = []
    monkeypatch.setattr(nacl.bindings, "crypto_sign_open", lambda signed, key: asked.append(key))
    raw = issue_certificate(IDENTITY_SEED, bytes(32), NOW - 1, NOW + 1, "worker-1")
    with pytest.raises(WireError, match="not signed by the broker"):
        verify_certificate(raw, bytes(size), NOW)
    line = audit.encode_checkpoint(bytes(64), audit.format_time(NOW), "worker-1", "0" * 16, 0, audit.GENESIS)
    assert not audit.verify_checkpoint(bytes(size), audit.decode_line(line))
    assert asked == []
