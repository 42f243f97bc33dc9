"""`egress.yaml`: what agents may call through the proxy, and with which secret.

The reference for operators is docs/egress.md.
"""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from agent_sdk.wire.names import check_agent_id, check_secret_name
from broker_worker.core.configuration import Configuration
from broker_worker.core.egress import (
    EGRESS_PORT,
    PLACE,
    Allowed,
    Bounds,
    EgressSettings,
    Network,
    Route,
    Send,
    Upstream,
    check_header_name,
    is_public,
)
from broker_worker.core.egress_path import PathPattern, read_segments
from broker_worker.core.errors import ConfigError
from broker_worker.files.quantities import parse_duration, parse_rate, parse_size
from broker_worker.files.sections import Section, Value, nearest
from broker_worker.files.yaml_reader import read_yaml

EGRESS_FILE = "egress.yaml"
_KEYS = ("port", "max_calls", "max_calls_per_run", "routes")
_ROUTE_KEYS = (
    "upstream", "secret", "send", "allow", "max_request", "max_response", "timeout", "idle", "rate", "ca_file",
    "allow_private",
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_ALLOWED, _MAX_ROUTES, _MAX_CALLS = 256, 256, 4096
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_QUERY_KEY = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)
_USER = re.compile(r"[!-9;-~]{1,128}", re.ASCII)
_SHOW = 'write `{header: Authorization, value: "Bearer {secret}"}`, `{query: key}` or `{basic: {user: git}}`'


def read_egress(path: Path) -> EgressSettings:
    """Read and check the file by itself.

    Raises:
        ConfigError: with file and line, for the first thing that cannot be meant.
    """
    if not path.exists():
        hint = "write one as docs/egress.md shows, or name it by --config: `launch` does not pass SECRET_BROKER_HOME on"
        raise ConfigError("does not exist", file=str(path), hint=hint)
    document = Section(read_yaml(path), file=str(path), origin=path.name, what="top level")
    document.refuse_unknown(("egress",))
    section = document.require("egress", why="write `egress:` and `routes:` below it").section(*_KEYS)
    port = section.get("port")
    calls, of_a_run = section.get("max_calls"), section.get("max_calls_per_run")
    routes = section.require("routes", why="write `routes:` and a name for each").section()
    names = list(routes)
    if len(names) > _MAX_ROUTES:
        raise routes.error(f"{len(names)} routes; at most {_MAX_ROUTES} are served", "run a second proxy")
    default = EgressSettings()
    return EgressSettings(
        routes={name: _route(routes, name) for name in names},
        port=EGRESS_PORT if port is None else port.integer(1024, 65_535),
        max_calls=default.max_calls if calls is None else calls.integer(1, _MAX_CALLS),
        max_calls_per_run=default.max_calls_per_run if of_a_run is None else of_a_run.integer(1, _MAX_CALLS),
    )


def check_egress(path: Path, configuration: Configuration) -> EgressSettings:
    """Read the file and check it against the broker's other files.

    Raises:
        ConfigError: with file and line; also if a secret is not in the registry.
    """
    settings = read_egress(path)
    document = Section(read_yaml(path), file=str(path), origin=path.name, what="top level")
    routes = document.require("egress").section().require("routes").section()
    for name, route in settings.routes.items():
        if configuration.entry_of(route.secret) is None:
            secret = routes.require(name).section().require("secret")
            raise secret.error(
                f"the registry has no secret `{route.secret}`", nearest(route.secret, tuple(configuration.registry))
            )
    return settings


def _route(routes: Section, name: str) -> Route:
    routes.key(name, check_agent_id)  # a route's name has the same form
    section = routes.require(name).section(*_ROUTE_KEYS)
    networks, certificates = section.get("allow_private"), section.get("ca_file")
    private = () if networks is None else tuple(item.parsed(_network) for item in networks.items())
    return Route(
        name=name,
        upstream=_upstream(section.require("upstream", why="write `upstream: https://api.example.com`"), private),
        secret=section.require("secret", why="write the name of the secret that goes with it").name(check_secret_name),
        send=_send(section.require("send", why=_SHOW, private=True)),  # where people paste the value itself
        allow=_allowed(section.require("allow", why="write `allow: [{method: GET, path: /v1/models}]`")),
        origin=routes.origin_of(name),
        bounds=_bounds(section),
        ca_file=None if certificates is None else certificates.text("a file of certificates"),
        allow_private=private,
    )


def _bounds(section: Section) -> Bounds:
    default = Bounds()
    sent, received, rate = section.get("max_request"), section.get("max_response"), section.get("rate")
    timeout, idle = section.get("timeout"), section.get("idle")
    return Bounds(
        max_request=default.max_request if sent is None else sent.parsed(parse_size),
        max_response=default.max_response if received is None else received.parsed(parse_size),
        timeout_seconds=default.timeout_seconds if timeout is None else timeout.parsed(parse_duration),
        idle_seconds=None if idle is None else idle.parsed(parse_duration),
        rate=default.rate if rate is None else rate.parsed(parse_rate),
    )


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError("expected a network such as 10.0.0.0/8 or 127.0.0.1/32") from None


def _upstream(value: Value, private: tuple[Network, ...]) -> Upstream:
    text = value.text("a URL such as https://api.example.com")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        segments = read_segments(parts.path) if parts.path not in {"", "/"} else ()
    except ValueError:
        raise value.expected("a URL such as https://api.example.com") from None
    if parts.username is not None or parts.query or parts.fragment or "?" in text or "#" in text:
        raise value.error("a user, a query or a fragment stands in it", "the secret goes where `send` says")
    if parts.scheme not in {"https", "http"} or not host or not text.isascii() or (segments and not segments[-1]):
        raise value.expected("a URL such as https://api.example.com, without a slash at its end")
    scheme: Literal["https", "http"] = "https" if parts.scheme == "https" else "http"
    upstream = Upstream(scheme, host, port or (443 if scheme == "https" else 80), segments)
    _check_host(value, upstream, private)
    return upstream


def _check_host(value: Value, upstream: Upstream, private: tuple[Network, ...]) -> None:
    host = upstream.host
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address is None and (_HOST.fullmatch(host) is None or host.rpartition(".")[2].isdecimal()):
        raise value.expected("a host's name or address in its usual form")
    is_named = address is not None and any(address in each for each in private if each.version == address.version)
    if address is not None and not is_public(address) and not is_named:
        raise value.error(f"{host} is no public address", f'write `allow_private: ["{host}"]` if it is meant')
    if upstream.scheme == "http":
        local = address.is_loopback if address is not None else host == "localhost"
        if not local or not any(network.is_loopback for network in private):
            hint = "write https://; plain http is for a server of this host, with `allow_private: [127.0.0.1/32]`"
            raise value.error("a secret would leave this host unencrypted", hint)


def _send(value: Value) -> Send:
    section = value.section("header", "value", "query", "basic", hint=_SHOW)
    kinds = [key for key in ("header", "query", "basic") if key in section]
    if len(kinds) != 1:
        raise value.error("expected one of `header`, `query` and `basic`", _SHOW)
    template = section.get("value")
    if template is not None and kinds != ["header"]:
        raise template.error("`value` belongs to `header`", _SHOW)
    if kinds == ["query"]:
        key = section.require("query")
        if _QUERY_KEY.fullmatch(key.text("the name of a query's key")) is None:
            raise key.expected("the name of a query's key")
        return Send("query", key.text())
    if kinds == ["basic"]:
        user = section.require("basic").section("user").require("user")
        if _USER.fullmatch(user.text("a user's name")) is None:
            raise user.expected("a user's name without `:`")
        return Send("basic", user.text())
    return Send("header", section.require("header").parsed(check_header_name), _template(template))


def _template(value: Value | None) -> str:
    if value is None:
        return PLACE
    text = value.text(f"a text with {PLACE} in it")
    if text.count(PLACE) != 1 or not text.isascii():
        raise value.expected(f"an ASCII text with {PLACE} in it, once", 'such as "Bearer {secret}"')
    return text


def _allowed(value: Value) -> tuple[Allowed, ...]:
    found: list[Allowed] = []
    for item in value.items(hint="write `allow: [{method: GET, path: /v1/models}]`"):
        section = item.section("method", "path", hint="write `{method: GET, path: /v1/models}`")
        method = section.require("method").choice(*_METHODS)
        allowed = Allowed(method, section.require("path").parsed(PathPattern.read))
        if allowed in found:
            raise item.error("this stands twice", "keep one of the two")
        found.append(allowed)
    if not found:
        raise value.error("the list is empty, so nothing could be called", "write `{method: GET, path: /v1/models}`")
    if len(found) > _MAX_ALLOWED:
        raise value.error(f"{len(found)} entries; at most {_MAX_ALLOWED} are read", "use `*` for a segment")
    return tuple(found)
