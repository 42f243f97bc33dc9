"""A stand-in for a Vault server on 127.0.0.1, written from its HTTP API's documentation, to provoke what it may say.

It is a specified fake, not Vault. `test_provider_vault_openbao.py` holds the same provider against a real OpenBao.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DENIED = "1 error occurred:\n\t* permission denied\n\n"


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    token: str
    namespace: str | None
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Said:
    """What is answered."""

    status: int
    body: dict[str, Any] | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeToken:
    """A token that is accepted until `ends`; `paths` are the beginnings that its policies allow."""

    ends: float | None = None
    ttl: int = 0
    is_renewable: bool = True
    paths: tuple[str, ...] = ("",)
    may_look_up: bool = True


class FakeVault:
    """Mounts, tokens, logins, versions and leases of one server.

    Set `fault` to answer something else, or do something before, for requests of a test's choice.
    """

    def __init__(self) -> None:
        self.clock = 1000.0
        self.tokens: dict[str, FakeToken] = {"root-token": FakeToken()}
        self.mounts: dict[str, tuple[str, str | None]] = {
            "secret/": ("kv", "2"),
            "old/": ("kv", None),
            "database/": ("database", None),
            "team/kv/": ("kv", "2"),
        }
        self.logins: dict[str, dict[str, str]] = {}
        self.issues = FakeToken(ttl=600)
        self.stored: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, list[dict[str, Any] | None]] = {}
        self.destroyed: set[tuple[str, int]] = set()
        self.leases: dict[str, int] = {}
        self.given_back: list[str] = []
        self.lease_seconds, self.longest_lease, self.is_lease_renewable = 60, 7200, True
        self.is_sealed = False
        self.asked: list[Asked] = []
        self.under_way = self.most_under_way = 0
        self.fault: Callable[[Asked], Said | None] = lambda asked: None
        self._lock = threading.Lock()
        self._count = 0

    def paths(self, beginning: str = "") -> list[str]:
        """The paths that were asked for, from `beginning` on."""
        return [asked.path for asked in self.asked if asked.path.startswith(beginning)]

    def put(self, path: str, **fields: Any) -> None:
        """Add a version of a KV v2 secret."""
        self.versions.setdefault(path, []).append(fields)

    def answer(self, asked: Asked) -> Said:
        """What Vault says."""
        with self._lock:
            self.asked.append(asked)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            said = self.fault(asked)
            with self._lock:
                return said or self._served(asked)
        finally:
            with self._lock:
                self.under_way -= 1

    def issue(self, like: FakeToken) -> tuple[str, FakeToken]:
        """A new token with `like.ttl` seconds to live."""
        self._count += 1
        ends = self.clock + like.ttl if like.ttl else None
        token = FakeToken(ends, like.ttl, like.is_renewable, like.paths, like.may_look_up)
        self.tokens[f"hvs.{self._count}"] = token
        return f"hvs.{self._count}", token

    def _served(self, asked: Asked) -> Said:
        path = asked.path
        if self.is_sealed:
            return _errors(503, "Vault is sealed")
        if path.startswith("auth/") and path.endswith("/login"):
            return self._log_in(path.removeprefix("auth/").removesuffix("/login"), asked.body)
        token = self.tokens.get(asked.token)
        if token is None or (token.ends is not None and self.clock >= token.ends):
            return _errors(403, "permission denied")
        if path == "auth/token/lookup-self":
            ttl = 0 if token.ends is None else int(token.ends - self.clock)
            data = {"ttl": ttl, "renewable": token.is_renewable, "id": asked.token}
            return Said(200, {"data": data}) if token.may_look_up else _errors(403, DENIED)
        if path == "auth/token/renew-self":
            if not token.is_renewable:
                return _errors(400, "lease is not renewable")
            token.ends = self.clock + token.ttl
            return Said(200, {"auth": _auth(asked.token, token)})
        if path.startswith("sys/") and not path.startswith("sys/internal/"):
            return self._system(path, asked.body, token)
        place = path.removeprefix("sys/internal/ui/mounts/")
        mount = next((each for each in self.mounts if place.startswith(each)), None)
        if not any(place.replace("/data/", "/", 1).startswith(each) for each in token.paths):
            return _errors(403, DENIED)
        if place != path:
            return self._mount(mount, place)
        if mount is None:
            return _errors(404, f'no handler for route "{path}". route entry not found.')
        kind, version = self.mounts[mount]
        if kind == "database":
            return self._make(path)
        return self._versions(asked) if version == "2" else self._stored(asked)

    def _system(self, path: str, body: dict[str, Any], token: FakeToken) -> Said:
        if path != "sys/capabilities-self":
            return self._lease(path, body)
        allowed = ["root"] if token.paths == ("",) else ["read"]
        places = {each: each.replace("/data/", "/", 1) for each in body["paths"]}
        found = {each: allowed if place.startswith(token.paths) else ["deny"] for each, place in places.items()}
        return Said(200, {"data": found})

    def _log_in(self, mount: str, body: dict[str, Any]) -> Said:
        expected = self.logins.get(mount)
        if expected is None:
            return _errors(403, "permission denied")
        if body != expected:
            return _errors(400, "invalid role or secret ID")
        return Said(200, {"auth": _auth(*self.issue(self.issues))})

    def _mount(self, mount: str | None, place: str) -> Said:
        if mount is None:
            return _errors(403, f'preflight capability check returned 403, please ensure … "{place}/"')
        kind, version = self.mounts[mount]
        return Said(200, {"data": {"path": mount, "type": kind, "options": {"version": version} if version else None}})

    def _make(self, path: str) -> Said:
        if "/creds/" not in path:
            return _errors(404, "1 error occurred:\n\t* unsupported path\n\n")
        self._count += 1
        lease = f"{path}/lease-{self._count}"
        self.leases[lease] = self.lease_seconds
        data = {"username": f"user-{self._count} canary-7c1e55", "password": f"pass-{self._count} canary-7c1e55"}
        found = {"lease_id": lease, "renewable": self.is_lease_renewable, "lease_duration": self.lease_seconds}
        return Said(200, found | {"data": data})

    def _lease(self, path: str, body: dict[str, Any]) -> Said:
        lease = body["lease_id"]
        if path.endswith("revoke"):
            self.leases.pop(lease, None)
            self.given_back.append(lease)
            return Said(204)
        if lease not in self.leases:
            return _errors(400, "lease not found")
        self.leases[lease] = min(body["increment"], self.longest_lease)
        return Said(200, {"lease_id": lease, "renewable": True, "lease_duration": self.leases[lease]})

    def _stored(self, asked: Asked) -> Said:
        if asked.method == "POST":
            self.stored[asked.path] = asked.body
            return Said(204)
        if asked.path not in self.stored:
            return _errors(404)
        return Said(200, {"lease_id": "", "lease_duration": 2764800, "data": self.stored[asked.path]})

    def _versions(self, asked: Asked) -> Said:
        path = asked.path.replace("/data/", "/", 1)
        kept = self.versions.setdefault(path, [])
        if asked.method == "POST":
            cas = asked.body["options"].get("cas")
            if cas is not None and cas != len(kept):
                return _errors(400, "check-and-set parameter did not match the current version")
            kept.append(asked.body["data"])
            return Said(200, {"data": self._metadata(path, len(kept))})
        version = int(asked.query.get("version", [str(len(kept))])[0])
        if not 0 < version <= len(kept):
            return _errors(404)
        fields = None if (path, version) in self.destroyed else kept[version - 1]
        status = 404 if fields is None else 200
        return Said(status, {"data": {"data": fields, "metadata": self._metadata(path, version)}})

    def _metadata(self, path: str, version: int) -> dict[str, Any]:
        is_destroyed = (path, version) in self.destroyed
        is_deleted = not is_destroyed and self.versions[path][version - 1] is None
        deleted = "2026-11-29T12:20:48.575215562Z" if is_deleted else ""
        return {"version": version, "destroyed": is_destroyed, "deletion_time": deleted}


def _auth(text: str, token: FakeToken) -> dict[str, Any]:
    return {"client_token": text, "lease_duration": token.ttl, "renewable": token.is_renewable}


def _errors(status: int, *texts: str) -> Said:
    return Said(status, {"errors": list(texts)})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and a body in one packet
    vault: FakeVault

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(
            self.command,
            unquote(parts.path).removeprefix("/v1/"),
            parse_qs(parts.query),
            self.headers.get("X-Vault-Token", ""),
            self.headers.get("X-Vault-Namespace"),
            json.loads(raw) if raw else {},
            dict(self.headers),
        )
        said = self.vault.answer(asked)
        body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in said.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _handle  # noqa: N815  # the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gives it
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    open: list[Any]
    request_queue_size = 64

    def get_request(self) -> tuple[Any, Any]:
        """Remember the connection: it ends with the server, also if it is kept alive."""
        request, address = super().get_request()
        self.open.append(request)
        return request, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what a test may want."""


@contextmanager
def serving(vault: FakeVault, wrap: Callable[[Any], Any] | None = None) -> Iterator[str]:
    """Serve a fake; `wrap` puts TLS around the listening socket."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"vault": vault}))
    server.open = []
    if wrap is not None:
        server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if wrap is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        for connection in server.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        thread.join(45)
