"""Listening on this host only: the sockets of parts that browsers and programs of this host reach over TCP."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from broker_worker.core.errors import SetupError

BACKLOG = 128


@contextmanager
def listening(port: int, addresses: tuple[str, ...], hint: str) -> Iterator[list[socket.socket]]:
    """Listen on all addresses; of several, so that no other user's program can answer on one that `localhost` means.

    Args:
        port: the port; 0 for any free one, the same on all addresses.
        addresses: IP addresses; one of IPv6 that is not the first may be missing on this host.
        hint: what to do if the port cannot be used.

    Raises:
        SetupError: if the port is taken or may not be used.
    """
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                made = _listen(address, sockets[0].getsockname()[1] if sockets else port)
            except OSError as error:
                if sockets and error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                    continue  # this host has no IPv6
                reason = os.strerror(error.errno or 0)
                raise SetupError(f"port {port} of {address} cannot be used: {reason}", hint=hint) from None
            sockets.append(made)
        yield sockets
    finally:
        for each in sockets:
            each.close()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET if ipaddress.ip_address(address).version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
