"""Where a route's connections may lead, decided on the very address that is connected to.

A name can resolve to another address a moment later. So the address is looked at twice: the whole answer of the
resolver, and then each socket before it is connected, which is the last moment and the one that counts.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

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


class RouteResolver(AbstractResolver):
    """Resolves the name of one route's upstream, and refuses the whole answer if an address in it is not allowed.

    Args:
        route: whose upstream.
        resolve: gives the addresses.
    """

    def __init__(self, route: Route, resolve: Resolve) -> None:
        self._route = route
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name (aiohttp's protocol).

        Raises:
            AddressRefusedError: if there is an address that the route may not connect to.
        """
        addresses = await self._resolve(host, port)
        if not all(self._route.may_connect(address) for address in addresses):
            raise AddressRefusedError
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in dict.fromkeys(addresses)
        ]

    async def close(self) -> None:
        """Nothing is kept."""


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
