"""Which headers go on, in both directions.

A proxy is an intermediary (RFC 9110, section 7.6): what concerns one connection ends at it. Beyond that, whatever could
make the upstream see another caller, another method or another path than the route allows does not go on.
"""

import re
from urllib.parse import urljoin, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from broker_worker.core.egress import Route
from broker_worker.core.egress_path import read_segments
from broker_worker.egress.identity import CREDENTIAL_HEADERS
from broker_worker.egress.problems import Refusal

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "http2-settings",
    }
)  # fmt: skip
"""RFC 9110, section 7.6.1, and what RFC 2616 and older clients counted among them."""
_OVERRIDES = re.compile(
    r"x-(?:original|rewrite|override|replaced|envoy-original)-.*"
    r"|x-(?:http-)?method(?:-override)?|x-http-(?:path|host|url|uri)-override|x-host"
    r"|x-forwarded-(?:uri|path|prefix|method)"
)
"""By these a server may be told to take a call for another one than its request line says."""
_NOT_SENT = _HOP_BY_HOP | CREDENTIAL_HEADERS | frozenset(
    {
        "host", "content-length", "expect", "accept-encoding", "forwarded", "via", "x-real-ip", "x-client-ip",
        "range", "if-range",
    }
)  # fmt: skip
"""What goes on is made anew or left out. A range (RFC 9110, section 14) could cut the value in an answer into parts
that nobody finds; a server need not heed one, so that leaving it out changes no meaning."""
_NOT_RETURNED = _HOP_BY_HOP | frozenset(
    {
        "set-cookie", "set-cookie2", "content-length", "alt-svc", "strict-transport-security",
        "public-key-pins", "clear-site-data", "report-to", "nel", "reporting-endpoints",
    }
)  # fmt: skip
"""A session cookie is a credential that the secret earned; the others speak of the upstream's own host."""

_PLAIN = re.compile(r"[!-\[\]-~]+", re.ASCII)
"""A place that all programs read in the same way: without spaces, backslashes and whatever is not ASCII."""

_LINK = re.compile(r"<([^<>]*)>")
"""A place in `Link` (RFC 8288, section 3)."""


def to_upstream(headers: CIMultiDictProxy[str], route: Route) -> CIMultiDict[str]:
    """The headers that go on to the upstream, without the value.

    Args:
        headers: the request's.
        route: its route.

    Raises:
        Refusal: if one of them could make the upstream take the call for another.
    """
    left_out = _nominated(headers)
    own = route.send.header
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        low = name.lower()
        if low.startswith("x-") and _OVERRIDES.fullmatch(low):
            raise Refusal(400, "header_refused", f"the header {low} could turn this call into another")
        if low in _NOT_SENT or low in left_out or low == own or low.startswith("x-forwarded-"):
            continue
        if "_" in low:  # many servers take it for `-`, and so for one of the above
            continue
        if not value.isprintable() or not value.isascii():
            raise Refusal(400, "header_refused", "a header's value has characters that are not printable ASCII")
        kept.add(name, value)
    kept["Accept-Encoding"] = "identity"
    return kept


def from_upstream(headers: CIMultiDict[str], route: Route, path: str, host: str) -> CIMultiDict[str]:
    """The headers that are passed on to the agent; places on the upstream become places on the route.

    Args:
        headers: the answer's.
        route: the route.
        path: what was called on the upstream; relative places start there.
        host: what the agent calls the proxy, with its port.
    """
    left_out, port = _nominated(headers), int(host.rpartition(":")[2])

    def linked(found: re.Match[str]) -> str:
        place = _place(found[1], route, path, port) or ""
        return f"<http://{host}{place}>" if place.startswith(f"/{route.name}/") else f"<{place}>"

    kept: CIMultiDict[str] = CIMultiDict()
    for name, raw in headers.items():
        low = name.lower()
        if low in _NOT_RETURNED or low in left_out:
            continue
        value = raw if raw.isprintable() else "".join(c if c.isprintable() else " " for c in raw)
        if low in {"location", "content-location"}:
            place = _place(value.strip(), route, path, port)
            if place is not None:
                kept.add(name, place)
        else:
            kept.add(name, _LINK.sub(linked, value) if low == "link" else value)
    return kept


def _nominated(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> frozenset[str]:
    """The headers that `Connection` says belong to the connection."""
    values = headers.getall("connection", ())
    return frozenset(word.strip().lower() for value in values for word in value.split(",")) if values else frozenset()


def _place(text: str, route: Route, path: str, port: int) -> str | None:
    """A place on the upstream as the agent reaches it, and any other as it is; None for what may be one of this proxy.

    The proxy follows no redirect. Whoever follows one to elsewhere goes there without the value. One that leads back
    here would go to another route, with the agent's own token: no upstream may send agents there.
    """
    upstream = route.upstream
    try:
        parts = urlsplit(urljoin(upstream.origin + path, text))
        if not _PLAIN.fullmatch(text) or (parts.scheme in {"http", "https"} and not parts.netloc) or parts.port == port:
            return None
    except ValueError:
        return None
    if f"{parts.scheme}://{parts.netloc}".lower() != upstream.origin:
        return text
    try:
        segments = read_segments(parts.path or "/")
    except ValueError:
        return parts.geturl()
    if segments[: len(upstream.prefix)] != upstream.prefix:
        return parts.geturl()
    place = "/".join(("", route.name, *segments[len(upstream.prefix) :]))
    return place + (f"?{parts.query}" if parts.query else "") + (f"#{parts.fragment}" if parts.fragment else "")
