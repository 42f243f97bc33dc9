"""Properties of proofs and static tokens: what was made is what is read, and no character can be changed."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire import static_tokens
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.proof import MAX_AUDIENCE, MAX_LIFETIME, ProofClaims, sign_proof, verify_proof
from agent_sdk.wire.sealing import run_public_key

NOW = 1_800_000_000_000
SEED = bytes([1]) * 32
RUN = run_public_key(SEED)
GATEWAY = "http://127.0.0.1:7700/v1/secrets/resolve"
TOKEN = "eyJhbGciOiJFZDI1NTE5In0.e30.c2lnbmVk"
words = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=64)


@given(words, st.integers(1, MAX_LIFETIME // 1000))
def test_a_proof_says_what_the_run_said(jti: str, seconds: int) -> None:
    """Signing and verifying give the same claims."""
    proof = sign_proof(SEED, TOKEN, GATEWAY, NOW, seconds * 1000, jti)
    assert verify_proof(proof, TOKEN, RUN, [GATEWAY], NOW) == ProofClaims(jti, NOW + seconds * 1000)


def test_no_changed_character_of_a_proof_verifies() -> None:
    """Every character of a proof counts, those that a lax base64 decoder would skip included."""
    proof = sign_proof(SEED, TOKEN, GATEWAY, NOW, 60_000, "proof-1")
    survivors = []
    for place, old in enumerate(proof):
        for new in {"A", "B", "_", "=", ".", " ", chr(ord(old) ^ 1)} - {old}:
            try:
                verify_proof(proof[:place] + new + proof[place + 1 :], TOKEN, RUN, [GATEWAY], NOW)
            except WireError:
                continue
            survivors.append((place, new))
    assert survivors == []


@pytest.mark.parametrize(
    ("audience", "lifetime", "jti"),
    [
        (GATEWAY, 0, "j"),
        (GATEWAY, MAX_LIFETIME + 1, "j"),
        ("", 1000, "j"),
        ("a" * (MAX_AUDIENCE + 1), 1000, "j"),
        (GATEWAY, 1000, ""),
        (GATEWAY, 1000, "j" * 65),
        (GATEWAY, 1000, "a\nb"),
    ],
)
def test_a_proof_that_no_verifier_would_take_is_not_signed(audience: str, lifetime: int, jti: str) -> None:
    """A mistake in the caller shows where it is made."""
    with pytest.raises(ValueError, match=r"proof lives at most|audience and jti are printable"):
        sign_proof(SEED, TOKEN, audience, NOW, lifetime, jti)


@given(st.text(max_size=80) | st.from_regex(r"\Asbt_[a-z2-7]{8}_[0-9A-Za-z]{49}\Z"))
def test_a_text_that_nobody_minted_is_no_static_token(text: str) -> None:
    """Anything but a minted token is refused with its code, and never by another exception."""
    with pytest.raises(WireError) as caught:
        static_tokens.parse(text)
    assert (str(caught.value.code), caught.value.reason) == ("unauthenticated", "bad_token")


def test_no_changed_character_of_a_static_token_parses() -> None:
    """A slip of one character anywhere is told from a token that is not known."""
    text, record = static_tokens.mint(bytes(range(37)))
    assert static_tokens.is_token_id(record.token_id)
    survivors = []
    for place, old in enumerate(text):
        for new in set(string.ascii_letters + string.digits + "_- ") - {old}:
            try:
                static_tokens.parse(text[:place] + new + text[place + 1 :])
            except WireError:
                continue
            survivors.append((place, new))
    assert survivors == []


@given(st.binary(min_size=37, max_size=37), st.binary(min_size=37, max_size=37))
def test_two_tokens_are_never_taken_for_each_other(one: bytes, two: bytes) -> None:
    """Every random byte shows in the text."""
    assert (static_tokens.mint(one) == static_tokens.mint(two)) == (one == two)


@pytest.mark.parametrize("size", [0, 32, 36, 38])
def test_a_token_of_too_little_entropy_is_not_minted(size: int) -> None:
    """Whoever hands in fewer bytes gets no weaker token."""
    with pytest.raises(ValueError, match="made of 37 random bytes"):
        static_tokens.mint(bytes(size))
