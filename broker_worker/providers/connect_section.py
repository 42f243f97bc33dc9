"""A Connect provider from its section in `broker.yaml`."""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from broker_worker.core.notifications import is_loopback
from broker_worker.ports import Provider
from broker_worker.providers.options import Options, Surroundings
from broker_worker.providers.token_reader import token_reader

SCHEME: Final = "connect"
OPTIONS: Final = ("url", "token_env", "token_file", "timeout_seconds", "ca_file", "allow_plain_http")
TOKEN_VARIABLE: Final = "OP_CONNECT_TOKEN"  # noqa: S105  # a variable's name
_MAX_URL: Final = 512
_EXAMPLE: Final = "write it as https://connect.example.com:8443, or http://127.0.0.1:8080 for one on this host"
_PLAIN: Final = "use https, or write `allow_plain_http: true` where only Connect and the broker are on the network"


def make_connect(options: Options, around: Surroundings) -> Provider:
    """Make the provider; the server is not contacted yet.

    Raises:
        ConfigError: for a wrong value.
    """
    from broker_worker.providers.connect import ConnectProvider  # noqa: PLC0415  # httpx is loaded where it is needed
    from broker_worker.providers.connect_api import MAX_TOKEN, ConnectApi  # noqa: PLC0415  # as above

    url = options.text("url", "the address of the Connect server", _EXAMPLE)
    problem = ""
    try:
        url = check_url(url, allow_plain_http=options.flag("allow_plain_http"))
    except ValueError as error:
        problem = str(error)
    if problem:
        raise options.refuse(f"url: {problem}", _PLAIN if problem.startswith("expected https:") else _EXAMPLE)
    read_token = token_reader(options, around, what="Connect access token", variable=TOKEN_VARIABLE, most=MAX_TOKEN)
    timeout = options.seconds("timeout_seconds", 10, 60)
    ca_file = options.path("ca_file", Path()) if options.has("ca_file") else None
    return ConnectProvider(ConnectApi(url, read_token, timeout_seconds=timeout, ca_file=ca_file), timeout)


def check_url(text: str, *, allow_plain_http: bool) -> str:
    """Check the address of a Connect server.

    Args:
        text: as the operator wrote it.
        allow_plain_http: whether the operator takes it that others can read along.

    Returns:
        The address without a slash at its end.

    Raises:
        ValueError: with what was expected; the address is not repeated.
    """
    problem = ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > _MAX_URL:
        problem = f"expected an address of at most {_MAX_URL} printable ASCII characters"
    elif not host or parts.scheme not in {"https", "http"} or parts.query or parts.fragment or "?" in text:
        problem = "expected an address such as https://connect.example.com:8443"
    elif parts.username is not None or "@" in parts.netloc:
        problem = "expected no user or password in the address"
    elif parts.path.rstrip("/").endswith("/v1"):
        problem = "expected the address without /v1 at its end"
    elif parts.scheme == "http" and not allow_plain_http and not is_loopback(host):
        problem = "expected https: without encryption others can read token and values"
    if problem:
        raise ValueError(problem)
    return text.rstrip("/")
