"""An SSH agent's messages (draft-ietf-sshm-ssh-agent) and signatures (RFC 4253, RFC 8332, RFC 8709, RFC 5656).

Keys are listed, and data is signed. Adding, removing and locking are refused: keys come from the broker alone.
"""

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from agent_sdk.errors import InvalidRequest

MAX_MESSAGE: Final = 256 * 1024
"""Longest message that is read, bytes."""
FAILURE: Final = b"\x05"
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER, _SIGN_REQUEST, _SIGN_RESPONSE = 11, 12, 13, 14
_RSA_SHA2_512 = 4
_CURVES: Final[dict[str, tuple[str, hashes.HashAlgorithm]]] = {
    "secp256r1": ("nistp256", hashes.SHA256()),
    "secp384r1": ("nistp384", hashes.SHA384()),
    "secp521r1": ("nistp521", hashes.SHA512()),
}
PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that the agent signs with.

    Args:
        blob: the public key, in SSH's form (RFC 4253, section 6.6).
        comment: what `ssh-add -l` shows beside it.
    """

    blob: bytes
    comment: str


def load_private_key(value: bytes, name: str) -> PrivateKey:
    """Read a private key in OpenSSH's form, or in PEM (PKCS #8, PKCS #1, SEC 1).

    Args:
        value: the key, without a passphrase.
        name: the secret's name, for the message.

    Raises:
        InvalidRequest: if it is none, or of a kind that is not signed with here. Nothing of it is repeated.
    """
    key = _loaded(value)
    if not isinstance(key, PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES
    ):
        raise InvalidRequest(f"the value of {name} is no Ed25519, RSA or ECDSA private key without a passphrase")
    return key


def _loaded(value: bytes) -> object:
    text = value if value.endswith(b"\n") else value + b"\n"
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            return load(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # its text may repeat a part of what it was given
            continue
    return None


def identity_of(key: PrivateKey, comment: str) -> Identity:
    """The public half of a key."""
    text = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return parse_public_key(text.decode("ascii"), comment)


def parse_public_key(text: str, comment: str) -> Identity:
    """Read the line of a `.pub` file.

    Raises:
        InvalidRequest: if it is none.
    """
    parts = text.split()
    try:
        blob = base64.b64decode(parts[1], validate=True)
        kind = _Reader(blob).text()
    except (IndexError, ValueError):  # base64 raises it, and of text that is not ASCII nothing narrower
        raise InvalidRequest("this is no line of an SSH public key, such as `ssh-ed25519 AAAA… comment`") from None
    if kind != parts[0].encode():
        raise InvalidRequest("this is no line of an SSH public key: its two parts name different kinds")
    return Identity(blob, comment)


class _MalformedError(ValueError):
    """A message that breaks the protocol."""


class _Reader:
    """Reads fields from the front of a message."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def number(self) -> int:
        """A uint32 (RFC 4251, section 5)."""
        return int(struct.unpack(">I", self._take(4))[0])

    def text(self) -> bytes:
        """A string (RFC 4251, section 5)."""
        return self._take(self.number())

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._raw):
            raise _MalformedError
        taken, self._at = self._raw[self._at : end], end
        return taken


def _string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def answer(message: bytes, identities: Sequence[Identity], sign: Callable[[Identity, bytes, int], bytes]) -> bytes:
    """Answer one message.

    Args:
        message: type and contents, without the length in front.
        identities: the keys there are.
        sign: signs data with a key, under the flags that the client set; whatever it raises is the caller's.

    Returns:
        The answer, without the length in front: a failure for everything that is not understood, or not offered.
    """
    kind, reader = message[:1], _Reader(message[1:])
    if kind == bytes([_REQUEST_IDENTITIES]):
        listed = b"".join(_string(each.blob) + _string(each.comment.encode()) for each in identities)
        return bytes([_IDENTITIES_ANSWER]) + struct.pack(">I", len(identities)) + listed
    if kind != bytes([_SIGN_REQUEST]):
        return FAILURE
    try:
        blob, data, flags = reader.text(), reader.text(), reader.number()
    except _MalformedError:
        return FAILURE
    identity = next((each for each in identities if each.blob == blob), None)
    return FAILURE if identity is None else bytes([_SIGN_RESPONSE]) + _string(sign(identity, data, flags))


def signature(key: PrivateKey, data: bytes, flags: int) -> bytes:
    """Sign data, in SSH's form.

    Args:
        key: the private key.
        data: what is signed.
        flags: for an RSA key which hash (RFC 8332). Without a flag SHA-1 would be meant; SHA-256 is used.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _string(b"ssh-ed25519") + _string(key.sign(data))
    if isinstance(key, rsa.RSAPrivateKey):
        is_long = bool(flags & _RSA_SHA2_512)
        name = b"rsa-sha2-512" if is_long else b"rsa-sha2-256"
        used: hashes.HashAlgorithm = hashes.SHA512() if is_long else hashes.SHA256()
        return _string(name) + _string(key.sign(data, padding.PKCS1v15(), used))
    curve, used = _CURVES[key.curve.name]
    numbers = utils.decode_dss_signature(key.sign(data, ec.ECDSA(used)))
    pair = b"".join(_string(_positive(number)) for number in numbers)
    return _string(f"ecdsa-sha2-{curve}".encode()) + _string(pair)


def _positive(number: int) -> bytes:
    """An mpint (RFC 4251, section 5)."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
