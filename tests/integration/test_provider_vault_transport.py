"""The way to Vault: TLS, deadlines, and servers that speak no HTTP or too slowly."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from socket import create_server, socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from desk_workbench import until
from hashicorp_server import FakeVault, serving
from hashicorp_workbench import make_vault
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.vault.answers import Answer, Trouble
from broker_worker.providers.vault.client import connect
from broker_worker.providers.vault.threads import Threads

K = FailureKind
REF = "vault://secret/app#key"


@contextmanager
def answering(serve: Callable[[socket], None]) -> Iterator[str]:
    """A server that does something of its own with each connection."""
    server = create_server(("127.0.0.1", 0))
    open_sockets: list[socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            open_sockets.append(connection)
            threading.Thread(target=swallow, args=(connection,), daemon=True).start()

    def swallow(connection: socket) -> None:
        try:
            serve(connection)
        except OSError:  # the client went away, or the test is over
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()
        for each in open_sockets:
            each.close()


def ask(url: str, timeout_seconds: float = 0.2) -> Answer:
    """What a request gives."""
    client = connect(url, namespace=None, ca_file=None, timeout_seconds=timeout_seconds, connections=1)
    answer = client.with_token(CANARY).read("secret/app")
    client.close()
    return answer


def _drip(connection: socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.01)


def _drip_chunks(connection: socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\n \r\n")
        time.sleep(0.01)


def _hang(connection: socket) -> None:
    while connection.recv(65536):
        pass


def _hang_up(connection: socket) -> None:
    connection.recv(65536)
    connection.close()


def _no_http(connection: socket) -> None:
    connection.recv(65536)
    connection.sendall(b"SSH-2.0-OpenSSH_9.9 " + CANARY.encode() + b"\r\n")
    connection.close()


def _endless_head(connection: socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-A: " + b"a" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    ("serve", "trouble"),
    [
        (_hang, Trouble.TIMEOUT),
        (_drip, Trouble.TIMEOUT),
        (_drip_chunks, Trouble.TIMEOUT),
        (_hang_up, Trouble.UNREACHABLE),
        (_no_http, Trouble.UNREACHABLE),
        (_endless_head, Trouble.UNREACHABLE),
    ],
)
def test_what_speaks_otherwise_is_no_answer(serve: Callable[[socket], None], trouble: Trouble) -> None:
    """Each ends by itself at its deadline, with nothing raised and nothing kept."""
    with answering(serve) as url:
        answer = ask(url)
    assert answer.trouble is trouble
    assert answer.body == {}


def test_a_chunked_answer_is_read() -> None:
    """Vault sends long answers in chunks."""

    def serve(connection: socket) -> None:
        connection.recv(65536)
        text = b'{"data": {"key": "' + b"x" * 100_000 + b'"}}'
        parts = [text[start : start + 7000] for start in range(0, len(text), 7000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    with answering(serve) as url:
        answer = ask(url, 5)
    assert answer.is_good
    assert len(answer.part("data")["key"]) == 100_000


async def test_a_vault_that_hangs_holds_up_nobody_else() -> None:
    """Its threads are its own: the default ones, and the event loop, are free meanwhile; its callers are told."""
    with answering(_hang) as url:
        provider = make_vault(url, {"VAULT_TOKEN": "t"}, time.monotonic, timeout_seconds=1)
        calls = [asyncio.create_task(failure_of(provider.get_many([REF]))) for _ in range(20)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 0.5) == "free"
        assert {error.kind for error in await asyncio.gather(*calls)} == {K.TIMEOUT}
        await provider.close()


async def test_a_late_result_is_undone_and_a_call_that_never_began_is_not() -> None:
    """Of two calls with one thread the first is under way at the deadline, the second still waits."""
    threads, gate, undone = Threads(1, 0.05), threading.Event(), list[str]()

    def slow() -> str:
        gate.wait(45)
        return "first"

    calls = [threads.run(slow, undone.append), threads.run(lambda: "second", undone.append)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [error.kind for error in errors if isinstance(error, ProviderError)] == [K.TIMEOUT, K.TIMEOUT]
    gate.set()
    await until(lambda: undone)
    threads.close()
    assert undone == ["first"]
    assert (await failure_of(threads.run(slow))).kind is K.UNREACHABLE


# --- TLS -----------------------------------------------------------------------------------------------------------


def _certificate(folder: Path, address: str) -> Path:
    """A certificate that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path := folder / f"{address}.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


async def _over_tls(pem: Path, ca_file: Path | None) -> tuple[Fetched | ProviderError, list[str]]:
    vault = FakeVault()
    vault.put("secret/app", key=CANARY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)

    def wrap(listening: socket) -> ssl.SSLSocket:
        return context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)

    with serving(vault, wrap) as url:
        options = {} if ca_file is None else {"ca_file": str(ca_file)}
        provider = make_vault(url, {"VAULT_TOKEN": "root-token"}, time.monotonic, **options)
        try:
            (answer,) = (await provider.get_many([REF])).values()
        except ProviderError as error:
            answer = error
        await provider.close()
    return answer, vault.paths()


async def test_the_authority_in_the_operators_file_is_believed(tmp_path: Path) -> None:
    """A private authority is what most Vaults have."""
    pem = _certificate(tmp_path, "127.0.0.1")
    assert (await _over_tls(pem, pem))[0] == Fetched(CANARY.encode(), "1")


@pytest.mark.parametrize("case", ["unknown authority", "another address", "another authority", "no such file"])
async def test_nothing_is_sent_to_a_server_that_nobody_vouches_for(tmp_path: Path, case: str) -> None:
    """Not even the token; the hint names `ca_file`."""
    (tmp_path / "other").mkdir()
    pem = _certificate(tmp_path, "127.0.0.2" if case == "another address" else "127.0.0.1")
    ca_file = {
        "unknown authority": None,
        "another address": pem,
        "another authority": _certificate(tmp_path / "other", "127.0.0.1"),
        "no such file": tmp_path / "nothing.pem",
    }[case]
    answer, paths = await _over_tls(pem, ca_file)
    assert isinstance(answer, ProviderError)
    assert answer.kind is K.UNREACHABLE
    assert "certificate" in str(answer)
    assert "ca_file" in answer.hint
    assert str(tmp_path) not in everything_said(answer)
    assert paths == []
