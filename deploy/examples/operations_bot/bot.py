"""An operations bot: a model that calls tools, each of which is one call through the egress proxy.

The bot has its run's identity token and no key: not the model's, nor any service's. It writes down everything that the
model says and is told.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

from agent_sdk import RunCredential

PROXY = os.environ.get("EGRESS_URL", "http://127.0.0.1:7720")
MODEL = os.environ.get("BOT_MODEL", "rules")
TASK = "Answer ticket 4711. Look before you act, and reply to the ticket with what you found and did."
MOST_TURNS = 20
PEOPLE_SECONDS = 120
"""How long a call may take: somebody may have to approve it."""


def tool(name: str, about: str, *parameters: str) -> dict[str, Any]:
    """A tool as a model is told of it."""
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = [
    tool("read_ticket", "Read a ticket.", "ticket"),
    tool("look_at_machine", "Look at a virtual machine.", "machine"),
    tool("reboot_machine", "Reboot a virtual machine. A person has to approve it.", "machine"),
    tool("look_at_licence", "Look how many seats of a product are used.", "product"),
    tool("reply_to_ticket", "Reply to a ticket.", "ticket", "text"),
]


class Proxy:
    """Calls services through the egress proxy.

    Args:
        token: the run's identity token: worth something at the proxy, on this host, and nowhere else.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Call a route; what the proxy or the service refuses comes back as what it says of that."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(PROXY + path, data, headers, method=method)  # noqa: S310  # http, to this host
        try:
            with self._opener.open(request, timeout=PEOPLE_SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        return found if isinstance(found, dict) else {"answer": found}


def use(proxy: Proxy, name: str, arguments: dict[str, str]) -> dict[str, Any]:
    """Do what the model wants done."""
    if name == "read_ticket":
        return proxy.call("GET", f"/tickets/tickets/{arguments['ticket']}")
    if name == "look_at_machine":
        return proxy.call("GET", f"/hypervisor-look/machines/{arguments['machine']}")
    if name == "reboot_machine":
        return proxy.call("POST", f"/hypervisor-act/machines/{arguments['machine']}/reboot")
    if name == "look_at_licence":
        return proxy.call("GET", f"/licences/products/{arguments['product']}")
    if name == "reply_to_ticket":
        return proxy.call("POST", f"/tickets/tickets/{arguments['ticket']}/replies", {"text": arguments["text"]})
    return {"error": f"there is no tool {name}"}


def main() -> int:
    """Work until the model has nothing more to do; every message goes to standard output as a line of JSON."""
    proxy = Proxy(RunCredential.load().token)
    messages: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    print(json.dumps(messages[0]))
    for _ in range(MOST_TURNS):
        answer = proxy.call(
            "POST", "/model/v1/chat/completions", {"model": MODEL, "messages": messages, "tools": TOOLS}
        )
        if "choices" not in answer:
            print(f"error: the model does not answer: {answer}", file=sys.stderr)
            return 1
        message = answer["choices"][0]["message"]
        messages.append(message)
        print(json.dumps(message), flush=True)
        if not message.get("tool_calls"):
            return 0
        for call in message["tool_calls"]:
            found = use(proxy, call["function"]["name"], json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(found)})
            print(json.dumps(messages[-1]), flush=True)
    print(f"error: the model did not come to an end in {MOST_TURNS} turns", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
