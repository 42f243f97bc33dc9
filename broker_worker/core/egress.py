"""What `egress.yaml` says: where requests may go, and which secret goes with them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from broker_worker.core.egress_path import PathPattern
from broker_worker.core.limits import Rate
from broker_worker.core.policy import Origin

EGRESS_PORT = 7720
PLACE = "{secret}"
"""Where the value stands in a header's template."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_NAT64 = ip_network("64:ff9b::/96")
_TRANSITION = (ip_network("2002::/16"), ip_network("2001::/32"), ip_network("::/96"))
"""IPv6 addresses that hold an IPv4 one (6to4, Teredo, IPv4-compatible): nothing public is reached by them today."""
_NOT_PUBLIC = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
"""Networks that Python 3.11 takes for public: protocol assignments, where Oracle's cloud has its metadata, the old 6to4
relays, the address by which Azure's machines reach their host, and documentation (RFC 9637)."""
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]{1,64}", re.ASCII)
_OURS = frozenset(
    {
        "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "host", "keep-alive",
        "origin", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Send:
    """Where the value goes.

    Args:
        kind: into a header, into the query, or into the password of basic authentication (RFC 7617).
        name: the header, the query's key, or the user.
        template: a header's value, with `{secret}` once.
    """

    kind: Literal["header", "query", "basic"]
    name: str
    template: str = PLACE

    @property
    def header(self) -> str | None:
        """The header that it sets, in lower case; None for the query."""
        return {"header": self.name.lower(), "basic": "authorization"}.get(self.kind)


@dataclass(frozen=True, slots=True)
class Allowed:
    """One method on one pattern of paths."""

    method: str
    path: PathPattern


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server, named once: a request's own words never choose where it goes.

    Args:
        scheme: `https`, or `http` for a server of this host.
        host: its name or address, in lower case.
        port: its port.
        prefix: segments that stand before every path.
    """

    scheme: Literal["https", "http"]
    host: str
    port: int
    prefix: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """Host and port as URLs write them, the port only if it is not the scheme's (RFC 3986, section 3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port (RFC 6454)."""
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of everything a call may take.

    Args:
        max_request: the largest body that is sent, bytes.
        max_response: the largest body that is passed on, bytes, after decoding; before it may have twice as many.
        timeout_seconds: how long a call may take as a whole.
        idle_seconds: how long the upstream may say nothing; None for as long as the whole call.
        rate: how many calls a run may make on the route.
    """

    max_request: int = 10 * 2**20
    max_response: int = 100 * 2**20
    timeout_seconds: int = 300
    idle_seconds: int | None = None
    rate: Rate = Rate(600, 60_000, 100)  # noqa: RUF009  # a frozen value


@dataclass(frozen=True, slots=True)
class Route:
    """What agents reach below `/<name>/`, and what the proxy adds to it.

    Args:
        name: the first segment of an agent's URL.
        upstream: where it goes.
        secret: the name of the secret that goes with it.
        send: where the value stands in it.
        allow: what may be called; nothing else.
        origin: where it stands.
        bounds: how much of everything a call may take.
        ca_file: certificates to trust instead of the system's.
        allow_private: networks that are not public and may be connected to all the same.
    """

    name: str
    upstream: Upstream
    secret: str
    send: Send
    allow: tuple[Allowed, ...]
    origin: Origin
    bounds: Bounds = Bounds()
    ca_file: str | None = None
    allow_private: tuple[Network, ...] = ()

    def covers(self, method: str, segments: tuple[str, ...]) -> PathPattern | None:
        """The pattern by which a call is allowed; None if none does."""
        return next((each.path for each in self.allow if each.method == method and each.path.matches(segments)), None)

    def may_connect(self, address: str) -> bool:
        """Whether an address that the upstream's name resolved to may be connected to."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.scope_id is not None:
            return False
        if self.upstream.scheme == "http" and not found.is_loopback:
            return False
        return is_public(found) or any(
            found.version == network.version and found in network for network in self.allow_private
        )


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """The whole file.

    Args:
        routes: by their names.
        port: where the proxy listens on 127.0.0.1.
        max_calls: how many calls are in flight at most, all runs together.
        max_calls_per_run: and of one run.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    port: int = EGRESS_PORT
    max_calls: int = 256
    max_calls_per_run: int = 32


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet (the registries of RFC 6890), whatever form it is in.

    An IPv4 address inside an IPv6 one (IPv4-mapped, NAT64 of RFC 6052) counts as the IPv4 address that it reaches.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.is_site_local or any(address in network for network in _TRANSITION):
            return False
    if any(address.version == network.version and address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def check_header_name(text: str) -> str:
    """Check the name of a header that is to carry a value.

    Raises:
        ValueError: if it is no name, or a header that carries the message itself.
    """
    if _HEADER.fullmatch(text) is None:
        raise ValueError("expected a header's name, without `_`")
    if text.lower() in _OURS:
        raise ValueError("this header belongs to the connection: expected one that carries a credential")
    return text
