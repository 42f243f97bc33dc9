"""The key with which a person decides in the terminal: Ed25519, in a file, under a passphrase if the person wants.

The file holds one line, `SECRET-BROKER-APPROVER-1:` and in base64url: the public half, how the passphrase is stretched
(Argon2id, RFC 9106), and the seed, in a secretbox (XSalsa20-Poly1305) unless there is no passphrase. The prefix is
there for secret scanners.
"""

import base64
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from platformdirs import user_config_path

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import SetupError
from broker_worker.private_files import create_private, make_private_folder, read_private

DEFAULT_PASSES: Final = 3
DEFAULT_MEMORY_KIB: Final = 64 * 1024
"""RFC 9106, section 4, second recommended choice, on one lane."""
_SEED_BYTES = 32
_MAX_FILE = 1024
_LINE = re.compile(rb"SECRET-BROKER-APPROVER-1:([A-Za-z0-9_-]{1,512})\n?")
_HINT = "`secret-broker approvers new-key` makes one; --key names another file"


class _File(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    passes: Annotated[int, Meta(ge=0, le=16)]
    memory_kib: Annotated[int, Meta(ge=0, le=1024 * 1024)]
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    nonce: Annotated[bytes, Meta(min_length=24, max_length=24)]
    seed: Annotated[bytes, Meta(min_length=32, max_length=48)]

    def __repr__(self) -> str:
        """Nothing of the seed, which may stand there as it is."""
        return f"_File(public={self.public.hex()!r})"


_FILE = Codec(_File, "approver's key", 512)


@dataclass(frozen=True, slots=True)
class ApproverKey:
    """A person's key as its file has it; the secret half is read when it is needed.

    Args:
        path: the file.
        public: the public half, 32 bytes: what approvers.yaml lists.
        is_protected: whether a passphrase opens it.
    """

    path: Path
    public: bytes
    is_protected: bool
    _file: _File = field(repr=False)

    def unlock(self, ask: Callable[[], str]) -> bytes:
        """The secret half in libsodium's 64-byte form.

        Args:
            ask: gives the passphrase; called only if there is one.

        Raises:
            SetupError: if the passphrase is not that of the file, or the file is damaged.
        """
        seed = self._seed(ask().encode()) if self.is_protected else self._file.seed
        public, secret = sodium.crypto_sign_seed_keypair(seed)
        if public != self.public:
            raise SetupError(f"{self.path} is damaged: its two halves do not belong together", hint="restore it")
        return secret

    def _seed(self, passphrase: bytes) -> bytes:
        opened = None
        try:
            key = _stretch(passphrase, self._file.salt, self._file.passes, self._file.memory_kib)
            opened = sodium.crypto_secretbox_open(self._file.seed, self._file.nonce, key)
        except (CryptoError, RuntimeError, MemoryError, ValueError):
            pass  # refused below, outside this block: the exception's frames hold the passphrase
        if opened is None:
            raise SetupError(f"{self.path} does not open with this passphrase", hint="try again, or make a new key")
        return opened


def default_key_path() -> Path:
    """Where a person's key is if nothing else is said."""
    return user_config_path("secret-broker") / "approver.key"


def create_approver_key(
    path: Path, passphrase: str | None, *, passes: int = DEFAULT_PASSES, memory_kib: int = DEFAULT_MEMORY_KIB
) -> ApproverKey:
    """Make a key and store it with mode 0600.

    Args:
        path: a file that does not exist yet; its folder is made if it is missing.
        passphrase: opens it; None for a file that opens by itself.
        passes: of Argon2id.
        memory_kib: of Argon2id, KiB.

    Raises:
        SetupError: if the file exists or cannot be written.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    public, _ = sodium.crypto_sign_seed_keypair(seed)
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(24)
    if passphrase is None:
        content = _File(public, 0, 0, salt, nonce, seed)
    else:
        key = _stretch(passphrase.encode(), salt, passes, memory_kib)
        content = _File(public, passes, memory_kib, salt, nonce, sodium.crypto_secretbox(seed, nonce, key))
    if not path.parent.exists():
        make_private_folder(path.parent)
    encoded = base64.urlsafe_b64encode(_FILE.encode(content)).rstrip(b"=")
    create_private(path, b"SECRET-BROKER-APPROVER-1:" + encoded + b"\n")
    return ApproverKey(path, public, passphrase is not None, content)


def load_approver_key(path: Path) -> ApproverKey:
    """Read a key's file.

    Raises:
        SetupError: if it is missing, open to others, or no such key.
    """
    found = _LINE.fullmatch(read_private(path, "your key", _MAX_FILE, hint=_HINT))
    try:
        content = _FILE.decode(base64.urlsafe_b64decode(found[1] + b"=" * (-len(found[1]) % 4))) if found else None
    except (WireError, ValueError):
        content = None
    if content is None or (content.passes == 0) != (len(content.seed) == _SEED_BYTES):
        raise SetupError(f"{path} does not hold an approver's key", hint=_HINT)
    return ApproverKey(path, content.public, content.passes > 0, content)


def _stretch(passphrase: bytes, salt: bytes, passes: int, memory_kib: int) -> bytes:
    return argon2id.kdf(32, passphrase, salt, opslimit=passes, memlimit=memory_kib * 1024)
