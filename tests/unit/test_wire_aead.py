"""The direct calls of libsodium do what PyNaCl's checked bindings do."""

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire import aead

_keys = st.binary(min_size=aead.KEY_BYTES, max_size=aead.KEY_BYTES)
_nonces = st.binary(min_size=aead.NONCE_BYTES, max_size=aead.NONCE_BYTES)


@given(st.binary(max_size=600), st.binary(min_size=1, max_size=120), _nonces, _keys)
def test_encryption_is_that_of_the_public_bindings(plain: bytes, aad: bytes, nonce: bytes, key: bytes) -> None:
    """Byte for byte, and each opens what the other sealed."""
    sealed = aead.encrypt(plain, aad, nonce, key)
    assert sealed == sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, aad, nonce, key)
    assert aead.decrypt(sealed, aad, nonce, key) == plain
    assert sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, aad, nonce, key) == plain


@given(st.binary(max_size=64), _nonces, _keys, st.integers(0, 79), st.integers(1, 255))
def test_a_changed_byte_does_not_open(plain: bytes, nonce: bytes, key: bytes, at: int, flip: int) -> None:
    """Wherever it stands, in the ciphertext or beside it."""
    sealed = bytearray(aead.encrypt(plain, b"beside", nonce, key))
    assert aead.decrypt(bytes(sealed), b"besidf", nonce, key) is None
    sealed[at % len(sealed)] ^= flip
    assert aead.decrypt(bytes(sealed), b"beside", nonce, key) is None


@pytest.mark.parametrize("size", range(aead.TAG_BYTES))
def test_a_ciphertext_without_a_whole_tag_does_not_open(size: int) -> None:
    """Nothing is read beyond it."""
    assert aead.decrypt(bytes(size), b"", bytes(aead.NONCE_BYTES), bytes(aead.KEY_BYTES)) is None


@pytest.mark.parametrize(("nonce", "key"), [(23, 32), (25, 32), (0, 32), (24, 31), (24, 33), (24, 0)])
def test_a_nonce_or_key_of_another_length_is_refused(nonce: int, key: int) -> None:
    """Before libsodium reads it."""
    with pytest.raises(ValueError, match="bytes"):
        aead.encrypt(b"x", b"", bytes(nonce), bytes(key))
    with pytest.raises(ValueError, match="bytes"):
        aead.decrypt(bytes(32), b"", bytes(nonce), bytes(key))


def test_the_vector_of_the_draft_holds() -> None:
    """draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    sealed = aead.encrypt(plain, aad, nonce, key)
    assert sealed[-16:] == bytes.fromhex("c0875924c1c7987947deafd8780acf49")
