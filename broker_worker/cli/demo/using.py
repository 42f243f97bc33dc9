"""Act 10: an agent uses a key that it never has."""

import hmac
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from broker_worker.audit.search import Query, search
from broker_worker.cli.audit_text import event_line
from broker_worker.cli.demo.cast import Agent
from broker_worker.cli.demo.house import CANARY, PROXY_LINES, USED, USED_LINES, House, until
from broker_worker.cli.demo.serving import show_answer
from broker_worker.cli.demo.stage import Stage

_START_SECONDS = 30.0
_CALL_SECONDS = 30.0
_RECORD_SECONDS = 10.0


class SearchService(ThreadingHTTPServer):
    """Somebody's API on this host: it wants its key, and repeats what it was shown, as careless services do.

    Args:
        key: what callers must show.
    """

    daemon_threads = True

    def __init__(self, key: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.expected = b"Bearer " + key
        self.right = self.wrong = 0


class _Handler(BaseHTTPRequestHandler):
    server: SearchService

    def do_GET(self) -> None:
        """Answer a search."""
        shown = self.headers.get("Authorization", "")
        is_right = hmac.compare_digest(shown.encode(), self.server.expected)
        self.server.right += is_right
        self.server.wrong += not is_right
        body = f'{{"hits": 3, "you_sent": "{shown}"}}'.encode()
        self.send_response(200 if is_right else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing."""


async def used_without_having(stage: Stage, house: House, agents: Mapping[str, Agent]) -> None:
    """Act 10: the proxy adds the key, and takes it out of the answer."""
    stage.act(
        10,
        "Used, and never had",
        "The operator lets claude use a search API's key through the egress proxy, which `up` starts now. claude calls "
        "the proxy on 127.0.0.1 with its run's token where the key would be.",
    )
    with SearchService(house.values[USED]) as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            await _use(stage, house, agents["claude"], service)
        finally:
            service.shutdown()
            thread.join()


async def _use(stage: Stage, house: House, claude: Agent, service: SearchService) -> None:
    port = house.let_use(f"http://127.0.0.1:{service.server_port}")
    for line in (*USED_LINES.splitlines(), *PROXY_LINES.splitlines()):
        stage.say(f"   +{line}")
    stage.check(
        bool(await until(house.has_proxy, _START_SECONDS)), f"`up` started the proxy at http://127.0.0.1:{port}"
    )
    (asked,) = await claude.ask([(USED, "have it")], lambda a: show_answer(stage, "claude", a))
    stage.check(asked.outcome == "denied", "claude is not given the key", asked.outcome)
    called = await claude.call(f"http://127.0.0.1:{port}/search/v1/search?q=desk", _CALL_SECONDS)
    stage.row("claude", "GET …/v1/search", str(called.status), called.text)
    stage.check(
        called.status == 200 and (service.right, service.wrong) == (1, 0),
        "the service was shown the right key, and answered",
        f"{called.status}, {service.right} right, {service.wrong} wrong",
    )
    stage.check(
        "you_sent" in called.text and CANARY not in called.text and USED in called.text,
        "it repeated the key, and what reached claude has the key's name there",
        called.text,
    )
    other = await claude.call(f"http://127.0.0.1:{port}/search/v1/admin", _CALL_SECONDS)
    stage.check(
        other.status == 403 and service.right + service.wrong == 1,
        "another path of that API is refused before anything leaves",
        str(other.status),
    )

    def recorded() -> bool:
        return len(search(house.settings.audit_dir, Query(event="call"), 10).events) > 1

    await until(recorded, _RECORD_SECONDS)
    calls = search(house.settings.audit_dir, Query(event="call"), 10).events
    for event in calls:
        stage.text(event_line(event))
    stage.check(
        {(event.agent_id, event.secret_name, event.outcome) for event in calls}
        == {("claude", USED, "granted"), ("claude", USED, "refused")},
        "both calls are in the audit: who, with which key, to where, what came back",
    )
