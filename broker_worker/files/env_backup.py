"""Backups of env files, sealed with a key of the broker's own: what is moved into a vault can be put back.

A backup is `SECRET-BROKER-BACKUP-1`, a line feed, a nonce of 24 bytes, and XChaCha20-Poly1305 over the file, its path
and its mode. The key is `keys/backup.key`. A file's name follows from what it holds, so the same backup is made once.
"""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from agent_sdk.wire.aead import NONCE_BYTES, decrypt, encrypt
from broker_worker.core.errors import SetupError
from broker_worker.private_files import create_private, make_private_folder, read_private

KEY: Final = "backup.key"
_HEAD: Final = b"SECRET-BROKER-BACKUP-1\n"
_MAX_BYTES: Final = 16 * 1024 * 1024


class Backup(Struct, frozen=True, forbid_unknown_fields=True):
    """An env file as it was.

    Args:
        path: where it was.
        mode: its permission bits.
        content: its bytes.
        after: the SHA-256 of what was put in its place.
    """

    path: str
    mode: int
    content: bytes
    after: bytes

    def __repr__(self) -> str:
        return f"Backup({self.path!r})"


def store_backup(folder: Path, key: bytes, backup: Backup) -> Path:
    """Seal a backup and store it; nothing is done where it is there already.

    Args:
        folder: where backups are; made private.
        key: 32 bytes.
        backup: what is kept.

    Returns:
        The backup's file.

    Raises:
        SetupError: if it cannot be written.
    """
    make_private_folder(folder)
    plain = msgspec.msgpack.encode(backup)
    mark = hmac.new(key, plain, hashlib.sha256).hexdigest()[:16]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(backup.path).name)[:64]
    path = folder / f"{name}-{mark}.sealed"
    if path.exists():
        load_backup(path, key)
        return path
    nonce = os.urandom(NONCE_BYTES)
    create_private(path, _HEAD + nonce + encrypt(plain, _HEAD, nonce, key))
    return path


def load_backup(path: Path, key: bytes) -> Backup:
    """Open a backup.

    Raises:
        SetupError: if it cannot be read, was changed, or is of another key.
    """
    raw = read_private(path, "the backup", _MAX_BYTES, hint="name a file of the home's folder `backups`")
    head, nonce, sealed = raw[: len(_HEAD)], raw[len(_HEAD) :][:NONCE_BYTES], raw[len(_HEAD) + NONCE_BYTES :]
    plain = decrypt(sealed, _HEAD, nonce, key) if head == _HEAD and len(nonce) == NONCE_BYTES else None
    if plain is None:
        raise SetupError(
            f"{path} is no backup of this installation, or was changed",
            hint=f"it opens with keys/{KEY} of the home that made it",
        )
    return msgspec.msgpack.decode(plain, type=Backup)
