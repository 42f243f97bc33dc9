"""The file that holds the wrapped master key: outside the sealed cache, and of no use on another host.

One line: a prefix for secret scanners, and base64url of `[kind, host, key id, parameters, nonce, wrapped key]` in
canonical msgpack. The master key is sealed with XChaCha20-Poly1305-IETF under the wrapping key; everything before the
nonce is the associated data.
"""

import base64
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from agent_sdk.wire import aead
from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.format import Sealer
from broker_worker.cache.sealed.wrapping import MAX_PARAMETERS, ORDER, Wrapped
from broker_worker.core.errors import SetupError
from broker_worker.private_files import make_private_folder, read_private, write_private

VERSION: Final = 1
_LINE = re.compile(rb"SECRET-BROKER-CACHE-KEY-([0-9]{1,4}):([A-Za-z0-9_-]{1,8192})\n?")
_MAX_FILE = 8300
_MAX_RAW = 6144
_MACHINE_ID = Path("/etc/machine-id")
_ENCODE = msgspec.msgpack.Encoder().encode


class _Stored(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: Annotated[str, Meta(max_length=16)]
    host: Annotated[bytes, Meta(min_length=16, max_length=16)]
    key_id: Annotated[bytes, Meta(min_length=8, max_length=8)]
    parameters: Annotated[bytes, Meta(max_length=MAX_PARAMETERS)]
    nonce: Annotated[bytes, Meta(min_length=aead.NONCE_BYTES, max_length=aead.NONCE_BYTES)]
    box: Annotated[bytes, Meta(min_length=48, max_length=48)]


_STORED = Codec(_Stored, "key of the sealed cache", _MAX_RAW)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """What a key file says; the master key is not known yet.

    Args:
        raw: the file's bytes: another key has others.
        kind: what wraps it.
        key_id: names the master key.
        parameters: what the wrapping stored.
    """

    raw: bytes
    kind: str
    key_id: bytes
    parameters: bytes
    _stored: _Stored = field(repr=False)

    def unwrap(self, wrapping_key: bytes) -> bytes:
        """The master key.

        Raises:
            RefusedError: if another key wraps it.
        """
        stored = self._stored
        about = _about(stored.kind, stored.host, stored.key_id, stored.parameters)
        master = aead.decrypt(stored.box, about, stored.nonce, wrapping_key)
        if master is None or Sealer(master).key_id != stored.key_id:
            raise RefusedError(f"the sealed cache's master key does not open with this {self.kind} key")
        return master


class KeyFile:
    """Where the wrapped master key is kept.

    Args:
        path: the file.
        host: what tells this host from others, 16 bytes (`host_id`).
    """

    def __init__(self, path: Path, host: bytes) -> None:
        self.path = path
        self._host = host

    def read(self) -> WrappedKey | None:
        """What the file says; None if there is no file.

        Raises:
            RefusedError: if it is damaged, open to others, or another host's.
            UnavailableError: if a newer program wrote it.
        """
        if not self.path.exists():
            return None
        try:
            raw = read_private(self.path, "the sealed cache's key", _MAX_FILE, hint="it is made anew")
        except SetupError as error:
            raise RefusedError(str(error), hint=error.hint) from None
        found = _LINE.fullmatch(raw)
        if found is not None and int(found[1]) > VERSION:
            raise UnavailableError(
                f"a newer program wrote {self.path}", hint="upgrade secret-broker, or run `secret-broker cache clear`"
            )
        stored = None if found is None or int(found[1]) != VERSION else _decoded(found[2])
        if stored is None or stored.kind not in ORDER:
            raise RefusedError(f"{self.path} does not hold a wrapped key")
        if stored.host != self._host:
            raise RefusedError(f"{self.path} was made on another host")
        return WrappedKey(raw, stored.kind, stored.key_id, stored.parameters, stored)

    def write(self, kind: str, wrapped: Wrapped) -> WrappedKey:
        """Make a master key, wrap it and store it.

        Args:
            kind: what wraps it.
            wrapped: the wrapping key.

        Raises:
            SetupError: if it cannot be written.
        """
        made = self.wrapped(kind, wrapped, secrets.token_bytes(aead.KEY_BYTES))
        self.store(made)
        return made

    def wrapped(self, kind: str, wrapped: Wrapped, master: bytes) -> WrappedKey:
        """Wrap a master key; nothing is stored yet.

        Args:
            kind: what wraps it.
            wrapped: the wrapping key.
            master: the master key, 32 bytes.
        """
        key_id, nonce = Sealer(master).key_id, os.urandom(aead.NONCE_BYTES)
        about = _about(kind, self._host, key_id, wrapped.parameters)
        box = aead.encrypt(master, about, nonce, wrapped.key)
        stored = _Stored(kind, self._host, key_id, wrapped.parameters, nonce, box)
        raw = b"SECRET-BROKER-CACHE-KEY-%d:%s\n" % (VERSION, _base64url(_STORED.encode(stored)))
        return WrappedKey(raw, kind, key_id, wrapped.parameters, stored)

    def store(self, key: WrappedKey) -> None:
        """Store a wrapped key in place of what is there.

        Raises:
            SetupError: if it cannot be written.
        """
        make_private_folder(self.path.parent)
        write_private(self.path, key.raw)


def host_id(machine_id: Path = _MACHINE_ID) -> bytes:
    """What tells this host from others: a hash of its machine id (machine-id(5)), or of nothing where there is none.

    Args:
        machine_id: the file to read.
    """
    try:
        text = machine_id.read_bytes().strip()
    except OSError:
        text = b""
    return hashlib.blake2b(text, person=b"sb cache host", digest_size=16).digest()


def _about(kind: str, host: bytes, key_id: bytes, parameters: bytes) -> bytes:
    return _ENCODE(("secret-broker cache key", VERSION, kind, host, key_id, parameters))


def _decoded(text: bytes) -> _Stored | None:
    try:
        return _STORED.decode(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)))
    except (WireError, ValueError):
        return None


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
