"""Where a route's connections may lead, decided on the very address that is connected to.

A name can resolve to another address a moment later. So the address is looked at twice: the whole answer of the
resolver, and then each socket before it is connected, which is the last moment and the one that counts.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from aiohappyeyeballs import AddrInfoType

from broker_worker.core.egress import Route
from broker_worker.core.errors import ConfigError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a name."""


class AddressRefusedError(OSError):
    """An address that the route may not connect to. It does not say which: that would tell what lies inside."""


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a name as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


async def look_up(route: Route, resolve: Resolve) -> list[AddrInfoType]:
    """The places that the name of a route's upstream leads to; all of them, or none if one is not allowed.

    Args:
        route: whose upstream.
        resolve: gives the addresses.

    Raises:
        AddressRefusedError: if there is an address that the route may not connect to.
        OSError: if there is none.
    """
    port = route.upstream.port
    addresses = dict.fromkeys(await resolve(route.upstream.host, port))
    if not all(route.may_connect(address) for address in addresses):
        raise AddressRefusedError
    if not addresses:
        raise OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
        for address in addresses
    ]


def socket_for(route: Route) -> Callable[[AddrInfoType], socket.socket]:
    """Makes the sockets of a route, and none for an address that it may not connect to."""

    def make(address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = address
        if not route.may_connect(str(place[0])):
            raise AddressRefusedError
        return socket.socket(family, kind, protocol)

    return make


def tls_for(route: Route, file: str = "egress.yaml") -> ssl.SSLContext:
    """The TLS settings of a route: the server's name and chain are always verified, and no keys are logged.

    Args:
        route: with `ca_file`, only those certificates are trusted.
        file: the operator's file, for the error.

    Raises:
        ConfigError: if the route's certificates cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # create_default_context would honour SSLKEYLOGFILE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if route.ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(route.ca_file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "no certificates in PEM form"
        raise ConfigError(
            f"`ca_file` of `{route.name}` cannot be used: {reason}",
            file=file,
            line=route.origin.line,
            hint="name a file of certificates in PEM form that the proxy's user can read",
        ) from None
    return context
