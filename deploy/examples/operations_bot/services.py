"""Stand-ins for what the bot works with: a ticket system, a hypervisor, a licence API, and a chat model.

Each wants its own key, in its own way, and writes down (in memory only) whether it was shown it. The chat model speaks
OpenAI's chat completions and follows fixed rules in place of a network's weights: it decides from what it is told, like
a real one, and so sees exactly what a real one would see.
"""

import base64
import hmac
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]

TICKETS = {"4711": {"id": "4711", "from": "lena", "text": "The build machine web-7 is slow. Is it out of memory?"}}
MACHINES = {"web-7": {"name": "web-7", "memory_gib": 8, "memory_used": 0.97, "reboots": 0}}
LICENCES = {"build-farm": {"product": "build-farm", "seats": 20, "used": 20}}


class Service(ThreadingHTTPServer):
    """One service on a port of 127.0.0.1.

    Args:
        name: what people call it.
        keys: what callers must show, by the method that they use.
        shown: finds in a request what its caller shows.
        handle: answers a request that showed the key: method, path without query, and body.
    """

    daemon_threads = True

    def __init__(
        self,
        name: str,
        keys: Mapping[str, str],
        shown: Callable[[Mapping[str, str], str], str],
        handle: Callable[[str, str, Any], Answer],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.keys, self.shown, self.handle = name, keys, shown, handle
        self.accepted = self.refused = 0
        self._thread = threading.Thread(target=self.serve_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """End it."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        """Look something up."""
        self._answer(None)

    def do_POST(self) -> None:
        """Do something."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(json.loads(raw) if raw else None)

    def _answer(self, body: Any) -> None:
        service, parts = self.server, urlsplit(self.path)
        shown = service.shown(dict(self.headers.items()), parts.query)
        is_known = hmac.compare_digest(shown.encode(), service.keys[self.command].encode())
        service.accepted += is_known
        service.refused += not is_known
        status, answer = service.handle(self.command, parts.path, body) if is_known else (401, {"error": "who is it?"})
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing: a query may hold a key."""


def _bearer(headers: Mapping[str, str], _: str) -> str:
    return headers.get("Authorization", "").removeprefix("Bearer ")


def _password(headers: Mapping[str, str], _: str) -> str:
    raw = headers.get("Authorization", "").removeprefix("Basic ")
    return base64.b64decode(raw).decode().partition(":")[2] if raw else ""


def _in_query(_: Mapping[str, str], query: str) -> str:
    return parse_qs(query).get("key", [""])[0]


def ticket_system(key: str) -> Service:
    """Reads tickets and takes replies; the key is a bearer token."""
    replies: list[Any] = []

    def handle(method: str, path: str, body: Any) -> Answer:
        number = path.split("/")[2]
        if number not in TICKETS:
            return 404, {"error": "no such ticket"}
        if method == "POST":
            replies.append(body)
            return 201, {"replies": len(replies)}
        return 200, TICKETS[number]

    return Service("tickets", {"GET": key, "POST": key}, _bearer, handle)


def hypervisor(reader: str, admin: str) -> Service:
    """Tells of virtual machines and reboots them; a key for each, as passwords for basic authentication."""

    def handle(method: str, path: str, _: Any) -> Answer:
        machine = MACHINES.get(path.split("/")[2])
        if machine is None:
            return 404, {"error": "no such machine"}
        if method == "POST":
            return 200, {**machine, "memory_used": 0.41, "reboots": 1}
        return 200, machine

    return Service("hypervisor", {"GET": reader, "POST": admin}, _password, handle)


def licence_api(key: str) -> Service:
    """Tells how many seats are used; the key stands in the query, as such services have it."""

    def handle(_: str, path: str, __: Any) -> Answer:
        licence = LICENCES.get(path.split("/")[2])
        return (200, licence) if licence is not None else (404, {"error": "no such product"})

    return Service("licences", {"GET": key, "POST": ""}, _in_query, handle)


def chat_model(key: str) -> Service:
    """OpenAI's chat completions with tools; the rules below decide which tool comes next."""

    def handle(_: str, __: str, body: Any) -> Answer:
        message = _next_message(body["messages"])
        choice = {"index": 0, "finish_reason": "tool_calls" if "tool_calls" in message else "stop", "message": message}
        return 200, {"id": "chat-1", "object": "chat.completion", "created": 0, "model": "rules", "choices": [choice]}

    return Service("model", {"GET": "", "POST": key}, _bearer, handle)


_STEPS: tuple[tuple[str, dict[str, str]], ...] = (
    ("read_ticket", {"ticket": "4711"}),
    ("look_at_machine", {"machine": "web-7"}),
    ("look_at_licence", {"product": "build-farm"}),
    ("reboot_machine", {"machine": "web-7"}),
)


def _next_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    told = [message for message in messages if message["role"] == "tool"]
    if len(told) < len(_STEPS):
        tool, arguments = _STEPS[len(told)]
        return _tool_call(len(told), tool, arguments)
    if len(told) == len(_STEPS):
        text = _report([json.loads(message["content"]) for message in told])
        return _tool_call(len(told), "reply_to_ticket", {"ticket": "4711", "text": text})
    return {"role": "assistant", "content": "Ticket 4711 is answered."}


def _tool_call(number: int, tool: str, arguments: Mapping[str, str]) -> dict[str, Any]:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"id": f"call-{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _report(told: list[dict[str, Any]]) -> str:
    _, machine, licence, rebooted = told
    seats = f"{licence['used']} of {licence['seats']} seats of {licence['product']} are used"
    if "memory_used" not in rebooted:
        return f"web-7 has {machine['memory_used']:.0%} of its memory in use. I may not reboot it: {rebooted}. {seats}."
    before, after = machine["memory_used"], rebooted["memory_used"]
    return f"web-7 had {before:.0%} of its memory in use; after a reboot it has {after:.0%}. {seats}."
