"""The local vault's file format: what opens, what does not, and which error says so."""

import struct

import msgspec
import nacl.bindings as sodium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.vault_format import (
    MAX_VAULT,
    KeyKind,
    KeyParameters,
    VaultContent,
    VaultEntry,
    open_content,
    read_parameters,
    seal_content,
)

SECRET = bytes(range(32))
PARAMETERS = KeyParameters(KeyKind.KEY_FILE, 0, 0, b"s" * 16)
KEY = PARAMETERS.derive(SECRET)
CONTENT = VaultContent({"a": VaultEntry(b"canary", 3, 1_700_000_000_000)}, {"gone": 7})
SEALED = seal_content(CONTENT, PARAMETERS, KEY)
HEADER = 74


def reopen(raw: bytes, secret: bytes = SECRET) -> VaultContent:
    parameters = read_parameters(raw)
    return open_content(raw, parameters, parameters.derive(secret))


def refusal(raw: bytes, secret: bytes = SECRET) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        reopen(raw, secret)
    assert caught.value.hint
    assert "canary" not in f"{caught.value!r}{caught.value.__context__!r}"
    return caught.value


def test_what_is_sealed_opens() -> None:
    """A sealed content comes back, removed names' versions included."""
    assert reopen(SEALED) == CONTENT


def test_empty_vault_opens() -> None:
    """A vault without entries is one too."""
    assert reopen(seal_content(VaultContent(), PARAMETERS, KEY)) == VaultContent()


def test_sealing_twice_uses_two_nonces() -> None:
    """The same content sealed again shares neither nonce nor ciphertext."""
    again = seal_content(CONTENT, PARAMETERS, KEY)
    assert again[: HEADER - 24] == SEALED[: HEADER - 24]
    assert again[HEADER - 24 : HEADER] != SEALED[HEADER - 24 : HEADER]
    assert again[HEADER:] != SEALED[HEADER:]


def test_file_holds_neither_names_nor_values() -> None:
    """What is on disk shows no name and no value."""
    assert b"canary" not in SEALED
    assert b"gone" not in SEALED


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_changed_byte_opens(position: int, change: int) -> None:
    """Whichever byte is changed, header or body, the vault is refused with a typed error."""
    raw = bytearray(SEALED)
    raw[position] ^= change
    refusal(bytes(raw))


@given(st.integers(0, len(SEALED) - 1))
def test_no_shortened_file_opens(length: int) -> None:
    """Wherever the file is cut, it is refused."""
    refusal(SEALED[:length])


def test_appended_bytes_do_not_open() -> None:
    """Bytes behind the end are noticed."""
    assert "was changed or cut short" in str(refusal(SEALED + b"\x00"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    """Anything that is no vault ends in `ProviderError`, with or without a vault's beginning."""
    refusal(raw)
    refusal(b"SBVAULT\x00" + raw)


def test_changed_body_is_told_from_a_wrong_key() -> None:
    """A damaged file says so; another key is `UNAUTHENTICATED`, and the hint names the key."""
    damaged = refusal(SEALED[:-1] + bytes([SEALED[-1] ^ 1]))
    assert damaged.kind is FailureKind.UNKNOWN
    assert "was changed or cut short since it was written" in str(damaged)
    wrong = refusal(SEALED, bytes(32))
    assert wrong.kind is FailureKind.UNAUTHENTICATED
    assert "does not open with this key file" in str(wrong)


def test_cut_off_header_is_named() -> None:
    """A file that ends within its header is cut short."""
    assert "cut short" in str(refusal(SEALED[:HEADER]))


def test_other_file_is_named() -> None:
    """Some other file is not mistaken for a damaged vault."""
    assert "does not begin as a vault does" in str(refusal(b"SQLite format 3\x00" + bytes(200)))


@pytest.mark.parametrize(("version", "says"), [(2, "upgrade secret-broker"), (255, "upgrade"), (0, "tampered")])
def test_other_format_versions_are_refused(version: int, says: str) -> None:
    """A newer version asks for an upgrade; an older one, which never was, is taken for tampering."""
    error = refusal(SEALED[:8] + bytes([version]) + SEALED[9:])
    assert f"format version {version}" in str(error)
    assert says in error.hint


def header(kind: int, passes: int, memory_kib: int) -> bytes:
    return struct.pack(">8sBBII16s16s24s", b"SBVAULT\x00", 1, kind, passes, memory_kib, bytes(16), bytes(16), bytes(24))


@pytest.mark.parametrize(
    ("kind", "passes", "memory_kib"),
    [
        (0, 0, 0),
        (1, 1, 0),
        (1, 0, 8192),
        (2, 0, 65536),
        (2, 17, 65536),
        (2, 2**32 - 1, 65536),
        (2, 3, 8191),
        (2, 3, 2**20 + 1),
        (2, 3, 2**32 - 1),
        (3, 3, 65536),
    ],
)
def test_header_cannot_ask_for_any_amount_of_work(kind: int, passes: int, memory_kib: int) -> None:
    """Unknown kinds of key, and passes or memory out of bounds, are refused before anything is derived."""
    with pytest.raises(ProviderError, match="in a way that this program does not know"):
        read_parameters(header(kind, passes, memory_kib) + bytes(16))


def test_weakened_key_derivation_does_not_open() -> None:
    """A header with fewer passes leads to another key, which is refused."""
    parameters = KeyParameters.of_passphrase(passes=2, memory_kib=8192)
    raw = seal_content(CONTENT, parameters, parameters.derive(b"correct horse"))
    assert reopen(raw, b"correct horse") == CONTENT
    weakened = raw[:10] + struct.pack(">I", 1) + raw[14:]
    assert refusal(weakened, b"correct horse").kind is FailureKind.UNAUTHENTICATED
    assert "passphrase" in str(refusal(raw, b"wrong horse!"))


def test_new_parameters_have_salts_of_their_own() -> None:
    """Two vaults with the same key file or passphrase have different keys."""
    assert KeyParameters.of_key_file().derive(SECRET) != KeyParameters.of_key_file().derive(SECRET)


def test_passphrases_cost_what_the_standard_says() -> None:
    """A new vault asks for 64 MiB and three passes (RFC 9106, section 4)."""
    parameters = KeyParameters.of_passphrase()
    assert (parameters.passes, parameters.memory_kib) == (3, 65536)


def test_key_derivation_out_of_memory_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has not enough memory the error says how much is needed, and nothing of the passphrase."""

    def fail(*args: object, **kwargs: object) -> bytes:
        raise MemoryError("canary")

    monkeypatch.setattr("nacl.pwhash.argon2id.kdf", fail)
    with pytest.raises(ProviderError, match="64 MiB of memory") as caught:
        KeyParameters.of_passphrase().derive(b"canary")
    assert caught.value.__context__ is None


def test_too_large_a_vault_is_not_written() -> None:
    """A content that would exceed the file's cap is `TOO_LARGE`."""
    value = bytes(128 * 1024)
    content = VaultContent({f"entry-{i}": VaultEntry(value, 1, 0) for i in range(MAX_VAULT // len(value))})
    with pytest.raises(ProviderError) as caught:
        seal_content(content, PARAMETERS, KEY)
    assert caught.value.kind is FailureKind.TOO_LARGE


@pytest.mark.parametrize(
    "content",
    [
        {"entries": {"a": [b"", 1, 0]}},
        {"entries": {"a": [b"canary", 0, 0]}},
        {"entries": {"a": ["canary", 1, 0]}},
        {"entries": {"a": [b"canary", 1]}},
        {"entries": {"a": [b"canary", 1, 0, 0]}},
        {"unknown": 1},
        [],
        None,
    ],
)
def test_content_of_another_form_is_refused(content: object) -> None:
    """Even what was sealed with the key is refused if it is not of the form."""

    raw = bytearray(seal_content(VaultContent(), PARAMETERS, KEY))
    nonce = bytes(raw[HEADER - 24 : HEADER])
    box = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
        msgspec.msgpack.encode(content), bytes(raw[:HEADER]), nonce, KEY
    )
    assert "entries of another form" in str(refusal(bytes(raw[:HEADER]) + box))


def test_entries_are_never_shown() -> None:
    """`repr` of entries and contents shows versions and counts, no values."""
    assert repr(CONTENT) == "VaultContent(1 entries)"
    assert repr(CONTENT.entries) == "{'a': VaultEntry(version=3, updated_at=1700000000000)}"


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.builds(VaultEntry, st.binary(min_size=1, max_size=50), st.integers(1, 9), st.integers(0, 2**53)),
        max_size=8,
    )
)
def test_any_content_survives(entries: dict[str, VaultEntry]) -> None:
    """Whatever is stored comes back the same."""
    content = VaultContent(entries)
    assert reopen(seal_content(content, PARAMETERS, KEY)) == content
