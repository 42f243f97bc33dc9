"""A Connect server for tests: the documented API over vaults in memory, by HTTP on the loopback interface.

Both ways are held against `connect.openapi.yaml`. A test that wants a fault gives a function that answers in the
server's place; such answers are not held against anything.
"""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from connect_description import Description
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

TOKEN = "eyJhbGciOiJFUzI1NiJ9.canary-token-5d1a.c2ln"
_DESCRIPTION = Description(Path(__file__).with_name("connect.openapi.yaml"))
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
Fault = Callable[[Request], Response | Awaitable[Response | None] | None]
_TIME = "2026-01-01T00:00:00Z"


def new_id() -> str:
    """A unique id as 1Password makes them."""
    return "".join(random.choices(_LETTERS, k=26))  # an id, no secret


@dataclass
class Vault:
    """A vault and its items by id, each as Connect shows it."""

    name: str
    id: str = field(default_factory=new_id)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, title: str, fields: Mapping[str, str], **more: Any) -> dict[str, Any]:
        """Add an item of fields by label, in no section."""
        item = {
            "id": new_id(),
            "title": title,
            "vault": {"id": self.id},
            "category": "API_CREDENTIAL",
            "version": 1,
            "createdAt": _TIME,
            "updatedAt": _TIME,
            "fields": [{"id": new_id(), "label": k, "type": "CONCEALED", "value": v} for k, v in fields.items()],
            **more,
        }
        self.items[str(item["id"])] = item
        return item


class ConnectServer:
    """The server.

    Args:
        vaults: what the token sees.
    """

    def __init__(self, *vaults: Vault) -> None:
        self.vaults = {vault.id: vault for vault in vaults}
        self.token = TOKEN
        self.may_write = True
        self.forbidden: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.fault: Fault = lambda request: None
        self.before_write: Callable[[], None] = lambda: None
        self.lag = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.address = ""
        self._hidden: dict[str, tuple[int, dict[str, Any] | None]] = {}
        self._http: uvicorn.Server | None = None

    def attach(self, item: dict[str, Any], name: str, content: bytes, **more: Any) -> str:
        """Attach a file to an item and return its id."""
        file_id = new_id()
        self.files[file_id] = content
        path = f"v1/vaults/{item['vault']['id']}/items/{item['id']}/files/{file_id}/content"
        entry = {"id": file_id, "name": name, "size": len(content), "content_path": path, **more}
        item.setdefault("files", []).append(entry)
        return file_id

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ConnectServer"]:
        """Serve for the length of a block, and find that both sides kept to the description."""
        # Only of a socket that says TCP does asyncio know that answers in two parts must not wait for each other.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(self, log_config=None, lifespan="off", ws="none")
        config.load()
        self._http = uvicorn.Server(config)
        self._http.lifespan = config.lifespan_class(config)
        await self._http.startup(sockets=[listener])  # without its loop, which looks ten times a second for the end
        try:
            yield self
        finally:
            self.stop()
            while self._http.server_state.connections:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0)
        assert self.problems == []

    def stop(self) -> None:
        """Hang up and listen no more."""
        assert self._http is not None
        for server in self._http.servers:
            server.close()
        for connection in list(self._http.server_state.connections):
            connection.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An exchange, as ASGI wants it."""
        assert scope["type"] == "http"
        request = Request(scope, receive)
        body = await request.body()
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.requests.append(f"{request.method} {request.url.path}")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            response = self.fault(request)
            if isinstance(response, Awaitable):
                response = await response
            if response is None:
                response = self._answer(request, body)
                self.problems += _DESCRIPTION.problems_of(
                    request.method,
                    target,
                    dict(request.headers),
                    body,
                    response.status_code,
                    response.headers.get("content-type", ""),
                    bytes(response.body),
                )
        finally:
            self.under_way -= 1
        await response(scope, receive, send)

    def _answer(self, request: Request, body: bytes) -> Response:
        parts = request.url.path.strip("/").split("/")
        if parts == ["health"]:
            needs = [{"service": "sync", "status": "ACTIVE"}, {"service": "sqlite", "status": "ACTIVE"}]
            return JSONResponse({"name": "1Password Connect API", "version": "1.8.1", "dependencies": needs})
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return failure(401, "Invalid token signature")
        match request.method, parts[1:]:
            case "GET", ["vaults"]:
                name = _filtered(request, "name")
                found = [vault for vault in self.vaults.values() if name in {None, vault.name}]
                return JSONResponse([{"id": vault.id, "name": vault.name} for vault in found])
            case method, ["vaults", vault_id, *rest]:
                if vault_id in self.forbidden:
                    return failure(403, f"vault {vault_id} is not in scope")
                if vault_id not in self.vaults:
                    return failure(404, f"vault {vault_id} not found")
                if method != "GET" and not self.may_write:
                    return failure(401, "Unauthorized Request, token does not have write access to the Vault")
                if method != "GET":
                    self.before_write()
                return self._of_vault(self.vaults[vault_id], request, rest[1:], body)
        return failure(404, "no such route")

    def _of_vault(self, vault: Vault, request: Request, rest: list[str], body: bytes) -> Response:
        match request.method, rest:
            case "GET", []:
                title = _filtered(request, "title")
                found = [item for item in vault.items.values() if title in {None, item["title"]}]
                without = {"sections", "fields", "files"}
                return JSONResponse([{k: v for k, v in item.items() if k not in without} for item in found])
            case "POST", []:
                given = json.loads(body)
                item = vault.add(given["title"], {}, sections=given.get("sections", []))
                item["fields"] = [{"id": new_id(), **field} for field in given["fields"]]
                self._hidden[item["id"]] = (self.lag, None)
                return JSONResponse(item)
            case method, [item_id, *more] if item_id in vault.items:
                return self._of_item(vault, vault.items[item_id], method, more, body)
        return failure(404, f"item {rest[0] if rest else ''} not found")

    def _of_item(self, vault: Vault, item: dict[str, Any], method: str, more: list[str], body: bytes) -> Response:
        match method, more:
            case "GET", []:
                wait, older = self._hidden.get(item["id"], (0, None))
                if wait > 0:
                    self._hidden[item["id"]] = (wait - 1, older)
                    return JSONResponse(older) if older else failure(404, f"item {item['id']} not found")
                return JSONResponse(item)
            case "PATCH", []:
                self._hidden[item["id"]] = (self.lag, json.loads(json.dumps(item)))
                for operation in json.loads(body):
                    if not _patch(item, operation):
                        return failure(400, "invalid patch")
                item["version"] += 1
                return JSONResponse(item)
            case "DELETE", []:
                del vault.items[item["id"]]
                return Response(status_code=204)
            case "GET", ["files", file_id, "content"] if file_id in self.files:
                return Response(self.files[file_id], media_type="application/octet-stream")
        return failure(404, f"file {more[-1]} not found")


def failure(status: int, message: str, **headers: str) -> Response:
    """An error as Connect words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"status": status, "message": message}, status, named)


def seen_operations() -> tuple[frozenset[str], frozenset[str]]:
    """The operations that were used so far in this process, and all that are described."""
    return frozenset(_DESCRIPTION.seen), _DESCRIPTION.operations


def _filtered(request: Request, attribute: str) -> str | None:
    """The name that a filter asks for; None without one."""
    text = request.query_params.get("filter")
    return None if text is None else text.removeprefix(f'{attribute} eq "').removesuffix('"')


def _patch(item: dict[str, Any], operation: dict[str, Any]) -> bool:
    if operation["op"] == "add":
        item["fields"] = [*item["fields"], {"id": new_id(), **operation["value"]}]
        return True
    pointer = operation["path"].split("/")[2].replace("~1", "/").replace("~0", "~")
    for each in item["fields"]:
        if each["id"] == pointer:
            each["value"] = operation["value"]
            return True
    return False
