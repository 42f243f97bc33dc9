"""Making values after a recipe. They are made here and go to the vault; an agent sees one only if it may read it."""

import base64
import secrets
import string
import uuid
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker_worker.core.recipes import Recipe

_ALNUM: Final = string.ascii_letters + string.digits
_MARKS: Final = "!#%+,-./:=?@^_~"
"""Marks that need no quoting in a shell's double quotes, in YAML's and in JSON's."""
_CLASSES: Final = (string.ascii_lowercase, string.ascii_uppercase, string.digits, _MARKS)


def generate(recipe: Recipe) -> bytes:
    """Make a value. RSA keys take a second and more: call it in a thread.

    Args:
        recipe: in which form.

    Returns:
        Text in ASCII; keys in PEM (PKCS #8).
    """
    size = recipe.size
    match recipe.kind:
        case "hex":
            return secrets.token_hex(size).encode()
        case "base64url":
            return base64.urlsafe_b64encode(secrets.token_bytes(size)).rstrip(b"=")
        case "alnum":
            return _drawn(_ALNUM, size).encode()
        case "password":
            return _password(size).encode()
        case "uuid4":
            return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)).encode()
        case "ed25519":
            return _pem(Ed25519PrivateKey.generate())
        case "rsa":
            return _pem(generate_private_key(65537, size))
    raise AssertionError(recipe.kind)


def _pem(key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _drawn(alphabet: str, size: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(size))


def _password(size: int) -> str:
    """Characters of all four classes, as rules of other systems want them; drawn anew until all are there."""
    while True:
        drawn = _drawn(_ALNUM + _MARKS, size)
        if all(set(each) & set(drawn) for each in _CLASSES):
            return drawn
