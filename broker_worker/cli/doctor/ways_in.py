"""Checks of the ways in beside the queue: the egress proxy, the HTTP gateway, and static tokens."""

from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec

from broker_worker.app.part_credentials import acting_agent
from broker_worker.cli.doctor.check import Check, failed, ok, warn
from broker_worker.cli.times import now_ms, show_span
from broker_worker.core.configuration import Configuration
from broker_worker.files.egress import EGRESS_FILE, check_egress
from broker_worker.settings import Settings

_DAY_MS = 86_400_000
_SOON_MS = 7 * _DAY_MS
_ANSWER_SECONDS, _ANSWER_BYTES = 5.0, 4096
_START = "`secret-broker up` starts it, or its own unit does; the logs say why it does not"
_MOVE = "end that program, or give the {part} another port"


def check_proxy(settings: Settings, configuration: Configuration, *, running: bool = False) -> Iterator[Check]:
    """Where there is an egress.yaml: whether it is valid, as whom the proxy asks, and whether it answers."""
    file = settings.config_dir / EGRESS_FILE
    if not file.exists():
        return
    found = check_egress(file, configuration)
    missing = next((package for package in ("aiohttp", "httptools") if find_spec(package) is None), None)
    if missing is not None:
        yield failed("egress", f"{missing} is not installed", "install the extra `egress`, or `all`")
        return
    agent = acting_agent(configuration.policy, "egress", "proxy")
    detail = f"routes: {len(found.routes)}, as the agent {agent}"
    yield _reached("egress", detail, "127.0.0.1", found.port, running=running)


def check_gateway(configuration: Configuration, *, running: bool = False) -> Iterator[Check]:
    """Where broker.yaml has `server`: as whom the gateway asks, and whether it answers and may ask."""
    server = configuration.server
    if server is None:
        return
    missing = [name for name in ("starlette", "uvicorn", "h11") if find_spec(name) is None]
    if missing:
        yield failed("gateway", f"not installed: {', '.join(missing)}", "install the extra `gateway`, or `all`")
        return
    agent = acting_agent(configuration.policy, "gateway", "value")
    yield _reached("gateway", f"as the agent {agent}", server.host, server.port, running=running)


def _reached(part: str, detail: str, host: str, port: int, *, running: bool) -> Check:
    """Whether the part answers where it is called, and whether it is the part that does."""
    place = f"{host}:{port}"
    connection = HTTPConnection(host, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        status, server, body = response.status, response.headers.get("Server"), response.read(_ANSWER_BYTES)
    except ConnectionRefusedError:
        absent = failed if running else warn
        return absent(part, f"{detail}; nothing listens on {place}", _START)
    except (OSError, HTTPException):
        return failed(part, f"{detail}; another program listens on {place}", _MOVE.format(part=part))
    finally:
        connection.close()
    if part == "gateway" and status == HTTPStatus.SERVICE_UNAVAILABLE and b'"unavailable"' in body:
        return failed(part, f"{detail}; {place} answers, and its credential is over", "write its credential anew")
    if (part == "egress" and server == "secret-broker") or (part == "gateway" and body == b'{"status":"ok"}'):
        return ok(part, f"{detail}; {place} answers")
    return failed(part, f"{detail}; another program listens on {place}", _MOVE.format(part=part))


def check_tokens(configuration: Configuration) -> Iterator[Check]:
    """Where there are static tokens: how many are good, and which end soon."""
    tokens, now = configuration.static_tokens.values(), now_ms()
    good = sorted((token for token in tokens if token.expires_at > now), key=lambda token: token.expires_at)
    if not tokens:
        return
    detail = f"good: {len(good)}, over: {len(tokens) - len(good)}"
    if good and good[0].expires_at < now + _SOON_MS:
        first = good[0]
        hint = f"`secret-broker tokens rotate {first.token_id}`, or let it end if it has a successor"
        yield warn(
            "tokens", f"{detail}; {first.token_id} of `{first.agent}` ends in {show_span(first.expires_at - now)}", hint
        )
    else:
        yield ok("tokens", detail)
