"""A second, independent reading of docs/protocol.md that the vectors are made with.

It shares no code with `agent_sdk`: msgpack, libsodium and hashlib are used directly, in the words of the document,
so that a vector file says what the document says and not what the implementation happens to do.
"""

import base64
import hashlib
import json
from itertools import groupby
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import nacl.bindings as sodium

NOW = 1_800_000_000_000
"""The moment at which every vector with a clock is looked at, ms since the epoch."""
REQUEST, REPLY, NOTICE = 1, 2, 3
_PERSON = {REQUEST: b"sb1 request", REPLY: b"sb1 reply", NOTICE: b"sb1 notice"}
_LONG, _RUN = 1024, 64

Case = dict[str, Any]


def seed(label: str) -> bytes:
    """32 fixed bytes that belong to a label."""
    return hashlib.sha256(f"secret-broker vectors: {label}".encode()).digest()


def nonce(label: str) -> bytes:
    """24 fixed bytes that belong to a label."""
    return seed(f"nonce {label}")[:24]


def pack(value: object) -> bytes:
    """The msgpack encoding, byte strings as `bin`."""
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def case(name: str, expect: str, comment: str = "", /, **fields: Any) -> Case:
    """One case of a vector file; `expect` is `ok` or `code/reason`."""
    head: Case = {"name": name, "expect": expect}
    if comment:
        head["comment"] = comment
    return {**head, **{key: plain(value) for key, value in fields.items()}}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: bytes become `{"hex": …}`, long ones `{"runs": [[hex, times], …]}`."""
    if isinstance(value, bytes):
        return {"hex": value.hex()} if len(value) <= _LONG else {"runs": _runs(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _runs(raw: bytes) -> list[list[Any]]:
    runs: list[list[Any]] = []
    literal = bytearray()
    for byte, group in groupby(raw):
        times = len(list(group))
        if times < _RUN:
            literal += bytes([byte]) * times
            continue
        if literal:
            runs.append([literal.hex(), 1])
            literal.clear()
        runs.append([f"{byte:02x}", times])
    return [*runs, [literal.hex(), 1]] if literal else runs


def keypair(label: str) -> tuple[bytes, bytes]:
    """The Ed25519 public key and libsodium's 64-byte secret of a label."""
    public, secret = sodium.crypto_sign_seed_keypair(seed(label))
    return public, secret


def signature(secret: bytes, statement: bytes) -> bytes:
    """The Ed25519 signature, 64 bytes."""
    return sodium.crypto_sign(statement, secret)[:64]


def exchange_of_run(label: str) -> tuple[bytes, bytes]:
    """The X25519 public and secret half of a run's Ed25519 key."""
    public, secret = keypair(label)
    return (
        sodium.crypto_sign_ed25519_pk_to_curve25519(public),
        sodium.crypto_sign_ed25519_sk_to_curve25519(secret),
    )


def exchange_pair(label: str) -> tuple[bytes, bytes]:
    """The X25519 public and secret half of an intake or session key."""
    secret = seed(label)
    return sodium.crypto_scalarmult_base(secret), secret


def direction_key(kind: int, secret: bytes, peer: bytes, sender: bytes, recipient: bytes) -> bytes:
    """The AEAD key of one direction (section "Keys of a direction")."""
    shared = sodium.crypto_box_beforenm(peer, secret)
    return hashlib.blake2b(sender + recipient, digest_size=32, key=shared, person=_PERSON[kind]).digest()


def intake_id(public: bytes) -> bytes:
    """The 8-byte name of an intake key."""
    return hashlib.blake2b(public, digest_size=32).digest()[:8]


def fingerprint(run_public: bytes) -> str:
    """The 26 base32 characters that name a run's reply stream."""
    return base64.b32encode(hashlib.blake2b(run_public, digest_size=32).digest()).decode().lower()[:26]


def padded(plaintext: bytes) -> bytes:
    """The plaintext, 0x80, and zeros up to a multiple of 256."""
    body = plaintext + b"\x80"
    return body + bytes(-len(body) % 256)


def envelope(
    kind: int, key: bytes, key_id: bytes, run: bytes, at: bytes, key_name: str, text: bytes, *, pad: bool = True
) -> bytes:
    """An envelope; `at` is its nonce, `text` what is sealed."""
    header = b"\x96" + pack(1) + pack(kind) + pack(key_id) + pack(run)
    body = padded(text) if pad else text
    sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(body, header + key_name.encode(), at, key)
    return header + pack(at) + pack(sealed)


def certificate(
    identity: str, session: bytes, not_before: int, not_after: int, worker: str, tag: bytes | None = None
) -> bytes:
    """A session certificate; `tag` replaces the domain separation tag in cases that must fail."""
    tag = b"secret-broker session certificate v1\x00" if tag is None else tag
    unsigned = [session, not_before, not_after, worker]
    statement = tag + pack([*unsigned, bytes(64)])
    return pack([*unsigned, signature(keypair(identity)[1], statement)])


def b64(raw: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def thumbprint(public: bytes) -> str:
    """The RFC 7638 thumbprint of an Ed25519 key (RFC 8037, appendix A.3)."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{b64(public)}"}}'
    return b64(hashlib.sha256(text.encode()).digest())


def compact(value: object) -> bytes:
    """JSON without white space."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def token(header: object, claims: object, secret: bytes) -> str:
    """A JWT signed with Ed25519, whatever its header says."""
    signing_input = f"{b64(compact(header))}.{b64(compact(claims))}"
    return f"{signing_input}.{b64(signature(secret, signing_input.encode()))}"
