"""Stand-ins for 1Password: the native core's JSON protocol, tokens, and a server on the loopback interface.

`FakeNativeCore` takes the place of the SDK's native library alone, so everything that the SDK does in Python (its
requests, its error types, its parsing) runs as it is.
"""

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from onepassword.core import UniffiCore  # type: ignore[import-untyped]  # it has no types
from onepassword_fake_items import FakeItems, NativeError, native_error

__all__ = ["FakeItems", "FakeNativeCore", "LoopbackServer", "NativeError", "install", "make_token", "native_error"]
REAL_HOST = "https://example.1password.com"


def make_token(address: str = REAL_HOST, **changes: object) -> str:
    """A token of the form that 1Password issues, for an account that does not exist."""
    claims: dict[str, object] = {
        "signInAddress": address,
        "userAuth": {"method": "SRPg-4096", "alg": "PBES2g-HS256", "iterations": 650000, "salt": _b64(b"s" * 16)},
        "email": "abcdefghijklm@1passwordserviceaccounts.com",
        "srpX": "ab" * 32,
        "muk": {
            "alg": "A256GCM",
            "ext": True,
            "k": _b64(b"k" * 32),
            "key_ops": ["decrypt", "encrypt"],
            "kty": "oct",
            "kid": "mp",
        },
        "secretKey": "A3-ABCDEF-ABCDEF-ABCDE-ABCDE-ABCDE-ABCDE",
        "throttleSecret": {"seed": "ab" * 32, "uuid": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
        "deviceUuid": "abcdefghijklmnopqrstuvwxyz",
    }
    return token_of(json.dumps(claims | changes))


def token_of(text: str | bytes) -> str:
    """A token with any content."""
    raw = text.encode() if isinstance(text, str) else text
    return "ops_" + base64.b64encode(raw).decode().rstrip("=")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class FakeNativeCore:
    """The native library's three functions, over a dictionary.

    Args:
        values: the account's content, by reference.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)
        self.items = FakeItems()
        self.vaults: dict[str, str] = {}
        self.reference_errors: dict[str, object] = {}
        self.sign_in_failure: Exception | None = None
        self.resolve_failure: Callable[[list[str]], Exception | None] = lambda refs: None
        self.raw_answer: Callable[[list[str]], str | None] = lambda refs: None
        self.gate: asyncio.Event | None = None
        self.signing_in = asyncio.Event()
        self.configs: list[dict[str, Any]] = []
        self.batches: list[list[str]] = []
        self.released: list[int] = []
        self.under_way = 0
        self.most_under_way = 0

    @property
    def sign_ins(self) -> int:
        return len(self.configs)

    async def init_client(self, config: str) -> str:
        self.configs.append(json.loads(config))
        self.signing_in.set()
        await self._wait()
        if self.sign_in_failure is not None:
            raise self.sign_in_failure
        return str(self.sign_ins)

    async def invoke(self, invocation: str) -> str:
        call = json.loads(invocation)["invocation"]
        assert call["clientId"] not in self.released
        if call["parameters"]["name"] == "VaultsList" and self.vaults:
            return self._list_vaults()
        if call["parameters"]["name"] != "SecretsResolveAll":
            await self._wait()
            return self.items.invoke(call["parameters"]["name"], call["parameters"]["parameters"])
        refs: list[str] = call["parameters"]["parameters"]["secret_references"]
        self.batches.append(refs)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._wait()
        finally:
            self.under_way -= 1
        failure = self.resolve_failure(refs)
        if failure is not None:
            raise failure
        raw = self.raw_answer(refs)
        return json.dumps({"individualResponses": {r: self._answer(r) for r in refs}}) if raw is None else raw

    def release_client(self, client_id: str) -> None:
        self.released.append(json.loads(client_id))

    def _list_vaults(self) -> str:
        failure = self.resolve_failure([])
        if failure is not None:
            raise failure
        other = {
            "description": "",
            "vaultType": "userCreated",
            "activeItemCount": 1,
            "contentVersion": 1,
            "attributeVersion": 1,
        }
        times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        vaults = [{"id": id_, "title": title, **other, **times} for id_, title in self.vaults.items()]
        return json.dumps(vaults)

    def _answer(self, ref: str) -> dict[str, object]:
        if ref in self.reference_errors:
            return {"error": self.reference_errors[ref]}
        if ref not in self.values:
            return self.items.resolve(ref) or {"error": {"type": "itemNotFound"}}
        return {"content": {"secret": self.values[ref], "itemId": "i" * 26, "vaultId": "v" * 26}}

    async def _wait(self) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()


def install(monkeypatch: pytest.MonkeyPatch, core: FakeNativeCore) -> None:
    """Put `core` where the SDK keeps its native library."""
    monkeypatch.setattr(UniffiCore, "__init__", lambda self: setattr(self, "core", core))


class LoopbackServer:
    """An HTTP server on 127.0.0.1 that answers everything alike.

    Args:
        respond: writes the whole answer to the handler.
        tls: the certificate and key to serve TLS with; None for plain HTTP.
    """

    def __init__(self, respond: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.respond = respond
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.requests.append(self.path)
                self.close_connection = True
                outer.respond(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's signature
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.address = f"https://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["LoopbackServer"]:
        thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(45)


def answer(status: int, body: bytes = b"{}") -> Callable[[BaseHTTPRequestHandler], None]:
    """Answers with a status and a body."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def tls_of_nobody(folder: Path) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a certificate that no authority vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
