"""XChaCha20-Poly1305-IETF (draft-irtf-cfrg-xchacha-03) by libsodium, as PyNaCl ships it.

PyNaCl's public bindings check each argument with several Python calls and take two and a half times as long as the
encryption itself, on a path that every message takes twice. The same library function is called here directly, with
the checks that are needed; `tests/unit/test_wire_aead.py` holds the two against each other.
"""

from nacl._sodium import ffi, lib  # type: ignore[import-not-found]  # a compiled module without a stub

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16
_NULL, _buffer = ffi.NULL, ffi.buffer
_encrypt = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
_decrypt = lib.crypto_aead_xchacha20poly1305_ietf_decrypt
_ARRAY = ffi.typeof("unsigned char[]")
_new = ffi.new_allocator(should_clear_after_alloc=False)  # the library writes every byte


def encrypt(plaintext: bytes, aad: bytes, nonce: bytes, key: bytes) -> bytes:
    """Encrypt and authenticate.

    Args:
        plaintext: any bytes.
        aad: what is authenticated beside them.
        nonce: 24 bytes that were never used with this key.
        key: 32 bytes.

    Returns:
        The ciphertext: 16 bytes longer than the plaintext.

    Raises:
        ValueError: if the nonce or the key has another length.
    """
    if len(nonce) != NONCE_BYTES or len(key) != KEY_BYTES:
        raise _wrong_length()
    size = len(plaintext)
    sealed = _new(_ARRAY, size + TAG_BYTES)
    _encrypt(sealed, _NULL, plaintext, size, aad, len(aad), _NULL, nonce, key)
    return _buffer(sealed)[:]  # type: ignore[no-any-return]  # as above


def decrypt(ciphertext: bytes, aad: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """Check and decrypt.

    Args:
        ciphertext: what `encrypt` returned.
        aad: what was authenticated beside it.
        nonce: 24 bytes.
        key: 32 bytes.

    Returns:
        The plaintext; None if this key did not make it, or not with this `aad` and nonce.

    Raises:
        ValueError: if the nonce or the key has another length.
    """
    if len(nonce) != NONCE_BYTES or len(key) != KEY_BYTES:
        raise _wrong_length()
    size = len(ciphertext)
    if size < TAG_BYTES:
        return None
    opened = _new(_ARRAY, size - TAG_BYTES or 1)
    if _decrypt(opened, _NULL, _NULL, ciphertext, size, aad, len(aad), nonce, key):
        return None
    return _buffer(opened, size - TAG_BYTES)[:]  # type: ignore[no-any-return]  # as above


def _wrong_length() -> ValueError:
    return ValueError(f"a nonce has {NONCE_BYTES} bytes and a key {KEY_BYTES}")
