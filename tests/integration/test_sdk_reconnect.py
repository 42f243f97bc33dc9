"""Connections that break under a client: what is written again, what is not, and what the caller sees."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

import hiredis
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from agent_sdk import AsyncSecretBroker, RunCredential, Unavailable
from agent_sdk.testing import FakeDesk
from agent_sdk.wire import keynames

REQUESTS = keynames.requests("claude")
LONG = 45.0


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = LONG) -> Any:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.005)
    return result


class Proxy:
    """Stands between the client and the server, and breaks what passes through it when told to."""

    def __init__(self, socket: Path, server: Path) -> None:
        self._socket = socket
        self._server = server
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.deaf = False
        """While true, what the server answers does not reach the client."""
        self.connections = 0

    async def open(self) -> None:
        self._listener = await asyncio.start_unix_server(self._accept, self._socket)

    async def cut(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await asyncio.sleep(0)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._socket.unlink(missing_ok=True)
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._server)
        self._writers |= {writer, upstream_writer}
        for source, sink, downstream in ((reader, upstream_writer, False), (upstream_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, downstream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, downstream: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not (downstream and self.deaf):
                    sink.write(data)
                    await sink.drain()
        sink.close()


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey_url, protocol=2, socket_timeout=None) as redis:
        yield redis


@pytest.fixture
async def proxy(tmp_path: Path, valkey_socket: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(tmp_path / "proxy.sock", valkey_socket)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a"})


@pytest.fixture
def run(desk: FakeDesk, tmp_path: Path, valkey_url: str) -> RunCredential:
    return desk.credential("claude", queue_url=f"unix://{tmp_path / 'proxy.sock'}")


async def _entries(redis: Any) -> list[bytes]:
    return [fields[keynames.MESSAGE_FIELD] for _, fields in await redis.xrange(REQUESTS)]


async def _answer(redis: Any, desk: FakeDesk, run: RunCredential) -> None:
    """Answer each request once, as the broker does: the copy of one is refused silently as a replay."""
    stream = keynames.replies("claude", keynames.fingerprint(run.run_public_key))
    for envelope in dict.fromkeys(await _entries(redis)):
        reply = desk.answer(envelope, "claude")
        assert reply is not None
        await redis.xadd(stream, {keynames.MESSAGE_FIELD: reply})


async def test_an_unconfirmed_request_is_written_again_as_the_same_bytes(
    proxy: Proxy, redis: Any, desk: FakeDesk, run: RunCredential
) -> None:
    """The confirmation was lost, so the client cannot know: the copy has the same request id, which is safe."""
    async with AsyncSecretBroker(run) as client:
        warm = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: redis.xlen(REQUESTS))
        await _answer(redis, desk, run)
        await warm
        await redis.delete(REQUESTS)
        proxy.deaf = True
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: redis.xlen(REQUESTS))
        await proxy.cut()
        proxy.deaf = False
        await until(lambda: _has(redis, 2))
        one, other = await _entries(redis)
        assert one == other
        await _answer(redis, desk, run)
        assert (await waiting).reveal() == "value-a"


async def _has(redis: Any, count: int) -> bool:
    return int(await redis.xlen(REQUESTS)) >= count


async def test_a_confirmed_request_is_not_written_again_and_its_answer_is_found(
    proxy: Proxy, redis: Any, desk: FakeDesk, run: RunCredential
) -> None:
    """Reading goes on where it stopped, so an answer that came while the connection was away is not missed."""
    async with AsyncSecretBroker(run) as client:
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: redis.xlen(REQUESTS))
        transport = client._exchange._transport
        await until(lambda: _confirmed(transport))
        await proxy.close()
        await _answer(redis, desk, run)
        await proxy.open()
        assert (await waiting).reveal() == "value-a"
        assert await redis.xlen(REQUESTS) == 1


async def _confirmed(transport: Any) -> bool:
    return not transport._outbox and not transport._unconfirmed


async def test_a_request_waits_for_a_queue_that_comes_late(
    proxy: Proxy, redis: Any, desk: FakeDesk, run: RunCredential
) -> None:
    """An agent may start before its queue."""
    await proxy.close()
    async with AsyncSecretBroker(run) as client:
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await asyncio.sleep(0)
        await proxy.open()
        await until(lambda: redis.xlen(REQUESTS))
        await _answer(redis, desk, run)
        assert (await waiting).reveal() == "value-a"


async def test_a_queue_that_stays_away_is_unavailable_and_nothing_is_sent_later(
    proxy: Proxy, redis: Any, run: RunCredential
) -> None:
    """The error says where the queue should be; a request whose caller gave up is not written afterwards."""
    await proxy.close()
    async with AsyncSecretBroker(run) as client:
        with pytest.raises(Unavailable, match=r"no answer in time: the queue at unix://.*proxy\.sock cannot be used"):
            await client.get("a.key", timeout=0.2)
        await proxy.open()
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: redis.xlen(REQUESTS))
        assert await redis.xlen(REQUESTS) == 1
        waiting.cancel()


async def test_a_queue_that_goes_and_comes_many_times_loses_nothing(
    proxy: Proxy, redis: Any, desk: FakeDesk, run: RunCredential
) -> None:
    """Each request is answered, whenever the connection broke."""
    async with AsyncSecretBroker(run) as client:
        for _ in range(5):
            waiting = [asyncio.create_task(client.get("a.key", timeout=LONG)) for _ in range(5)]
            await asyncio.sleep(0)
            await proxy.cut()
            while not all(task.done() for task in waiting):
                await _answer(redis, desk, run)
                await asyncio.sleep(0.01)
            assert [(await task).reveal() for task in waiting] == ["value-a"] * 5
            await redis.delete(REQUESTS)


async def test_a_server_that_goes_silent_counts_as_gone(
    proxy: Proxy, redis: Any, desk: FakeDesk, run: RunCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that hangs without breaking is replaced."""
    monkeypatch.setattr("agent_sdk.redis_transport.ANSWER_SECONDS", 0.2)
    async with AsyncSecretBroker(run) as client:
        proxy.deaf = True
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: _connected(proxy, 3))
        proxy.deaf = False
        await until(lambda: redis.xlen(REQUESTS))
        await _answer(redis, desk, run)
        assert (await waiting).reveal() == "value-a"


async def _connected(proxy: Proxy, times: int) -> bool:
    return proxy.connections >= times


def _self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "queue")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path := folder / "tls.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("policy", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_queue_behind_tls_is_used(
    policy: Callable[[], asyncio.AbstractEventLoop],
    valkey_url: str,
    valkey_socket: Path,
    desk: FakeDesk,
    tmp_path: Path,
) -> None:
    """The connection that redis-py made is taken over together with its TLS, large messages included."""
    pem = _self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    desk.values["a.key"] = value = "v" * 100_000

    async def use() -> list[str]:
        proxy = Proxy(tmp_path / "proxy.sock", valkey_socket)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0, ssl=context)
        run = desk.credential(
            "claude", queue_url=f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}?ssl_ca_certs={pem}"
        )
        async with AsyncSecretBroker(run) as client, Redis.from_url(valkey_url, socket_timeout=None) as redis:
            waiting = [asyncio.create_task(client.get("a.key", timeout=LONG)) for _ in range(5)]
            await until(lambda: _has(redis, 5))
            await _answer(redis, desk, run)
            values = [secret.reveal() for secret in await asyncio.gather(*waiting)]
        server.close()
        await proxy.close()
        return values

    with asyncio.Runner(loop_factory=policy) as runner:
        assert runner.run(use()) == [value] * 5


class ScriptedServer:
    """Speaks just enough of the protocol to answer each command with what the script says."""

    def __init__(self, socket: Path, script: Callable[[list[bytes]], bytes]) -> None:
        self._socket = socket
        self._script = script
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        parser = hiredis.Reader()
        with suppress(OSError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    writer.write(self._script(command))
        writer.close()


async def test_a_replica_that_refuses_writes_is_left_and_the_request_written_again(
    run: RunCredential, tmp_path: Path
) -> None:
    """After a failover the old address may be read-only for a while: that is no reason to fail a request."""
    written: list[bytes] = []

    def script(command: list[bytes]) -> bytes:
        match command[0]:
            case b"XADD":
                written.append(command[-1])
                return (
                    b"-READONLY You can't write against a read only replica.\r\n"
                    if len(written) == 1
                    else b"$3\r\n1-1\r\n"
                )
            case b"PUBLISH":
                return b":0\r\n"
            case b"XREVRANGE":
                return b"*0\r\n"
            case _:
                return b""

    async with ScriptedServer(tmp_path / "proxy.sock", script), AsyncSecretBroker(run) as client:
        waiting = asyncio.create_task(client.get("a.key", timeout=LONG))
        await until(lambda: _written(written, 2))
        assert written[0] == written[1]
        waiting.cancel()


async def _written(written: list[bytes], count: int) -> bool:
    return len(written) >= count


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"*1\r\n$1\r\nx\r\n",
        b"*1\r\n*2\r\n$3\r\nbad\r\n*0\r\n",
        b"*1\r\n*2\r\n:1\r\n*0\r\n",
        b"*0\r\n*0\r\n",
        b"-ERR no\r\n",
    ],
    ids=["http", "text", "number", "string", "bad id", "number for an id", "twice", "error"],
)
async def test_a_server_that_talks_nonsense_is_unavailable(run: RunCredential, tmp_path: Path, answer: bytes) -> None:
    """Whatever stands at the address, the caller sees one clear error and the client can be closed."""
    async with ScriptedServer(tmp_path / "proxy.sock", lambda _: answer), AsyncSecretBroker(run) as client:
        with pytest.raises(Unavailable, match=r"no answer in time: the queue at .* cannot be used"):
            await client.get("a.key", timeout=0.2)
