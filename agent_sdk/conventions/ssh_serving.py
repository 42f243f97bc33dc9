"""Serves an SSH agent on a socket of its own, a thread a client."""

import errno
import logging
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from agent_sdk.conventions.ssh_agent import FAILURE, MAX_MESSAGE, Identity, answer, load_private_key, signature
from agent_sdk.source import SecretSource
from agent_sdk.wire.errors import SecretBrokerError

MAX_CLIENTS = 32
_IDLE_SECONDS = 600.0
_PASSING = frozenset({errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of `accept` that pass: a client that has gone already, and descriptors or memory that are short just now."""
_PAUSE_SECONDS = 0.1
_LOG = logging.getLogger(__name__)


class SigningServer:
    """An SSH agent. Use it with `with`; leaving it closes every connection.

    Args:
        signers: the keys, each with what gives its private half.
    """

    def __init__(self, signers: Sequence[tuple[Identity, SecretSource]]) -> None:
        self._identities = [identity for identity, _ in signers]
        self._sources = {identity.blob: source for identity, source in signers}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with suppress(OSError):  # wakes the thread that accepts
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for client in self._clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def listen(self, path: Path) -> None:
        """Begin to serve.

        Args:
            path: the socket, in a folder that only this user can enter.

        Raises:
            OSError: if it cannot be made.
        """
        try:
            self._listening.bind(str(path))
        except OSError as error:
            if error.errno is None:  # Python's own, before any system call
                said = "the path is too long for a socket, choose a shorter TMPDIR"
                raise OSError(errno.ENAMETOOLONG, said, str(path)) from None
            raise
        path.chmod(0o600)
        self._listening.listen(MAX_CLIENTS)
        threading.Thread(target=self._accept, name="ssh-agent", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError as error:
                if error.errno not in _PASSING:
                    return
                if self._ending.wait(_PAUSE_SECONDS):
                    return
                continue
            with self._lock:
                if len(self._clients) >= MAX_CLIENTS:
                    client.close()
                    continue
                self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), name="ssh-agent-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(_IDLE_SECONDS)
        try:
            while (message := _read(client)) is not None:
                told = self._answer(message)
                client.sendall(struct.pack(">I", len(told)) + told)
        except OSError:
            return
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()

    def _answer(self, message: bytes) -> bytes:
        try:
            return answer(message, self._identities, self._sign)
        except SecretBrokerError as error:
            _LOG.warning("ssh-agent: not signed: %s", error)  # our messages hold no value
            return FAILURE
        except Exception as error:  # noqa: BLE001  # such as a key that is too short for a hash; its text is not ours
            _LOG.warning("ssh-agent: not signed: %s", type(error).__name__)
            return FAILURE

    def _sign(self, identity: Identity, data: bytes, flags: int) -> bytes:
        source = self._sources[identity.blob]
        return signature(load_private_key(source().encode(), source.name), data, flags)


def _read(client: socket.socket) -> bytes | None:
    """One message; None when the client is gone, or sends what is none."""
    head = _exactly(client, 4)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head)
    return _exactly(client, size) if 1 <= size <= MAX_MESSAGE else None


def _exactly(client: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
