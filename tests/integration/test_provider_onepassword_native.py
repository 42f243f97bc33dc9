"""1Password's real native core against a server on the loopback interface: every way in which a sign-in can fail.

The core takes plain HTTP addresses out of a token, which is why it can be tested here, and why the broker checks the
address before the core sees the token; these tests replace that check. A sign-in that succeeds needs 1Password's
half of SRP and of its encryption, so what follows a sign-in is tested with the core's JSON protocol instead
(test_provider_onepassword.py, test_provider_onepassword_session.py) and, with an account, live
(test_provider_onepassword_live.py).
"""

import asyncio
import socket
import threading
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from onepassword.core import UniffiCore  # type: ignore[import-untyped]  # it has no types
from onepassword_fakes import LoopbackServer, answer, make_token, tls_of_nobody, token_of
from provider_conformance import CANARY, everything_said, failure_of
from vault_workbench import hardened

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import FAILURES_TO_OPEN, refuses_us
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession

REF = "op://vault/item/field"
BODY = b'{"reason": "' + CANARY.encode() + b'"}'


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core honours proxy variables; these tests stay on this host."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def provider_of(token: str, timeout: float = 10.0) -> OnePasswordProvider:
    """A provider whose token may name any server."""
    session = OnePasswordSession(
        lambda: token,
        SdkClient.sign_in,
        timeout_seconds=timeout,
        monotonic=lambda: 0.0,  # no session ever gets old, however slow this host is
        unsafe_check_address_for_tests=lambda address: address,
    )
    return OnePasswordProvider(session, timeout)


async def refusal_by(respond: Callable[[BaseHTTPRequestHandler], None]) -> tuple[ProviderError, int]:
    """The error that a server's answer leads to, and how many requests it saw for three calls."""
    with LoopbackServer(respond).running() as server:
        provider = hardened(provider_of(make_token(server.address)))
        error = await failure_of(provider.get_many([REF]))
        for _ in range(2):
            await failure_of(provider.get_many([REF]))
        await provider.close()
    return error, len(server.requests)


def write_junk(handler: BaseHTTPRequestHandler) -> None:
    """An answer that is no HTTP."""
    handler.wfile.write(b"\x00\xff" + CANARY.encode() + b"\r\n\r\n")


def hang_until(release: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """No answer before `release` is set."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        release.wait(45)

    return respond


@pytest.mark.parametrize(
    ("respond", "kind"),
    [
        pytest.param(answer(401, BODY), FailureKind.UNAUTHENTICATED, id="401"),
        pytest.param(answer(403, BODY), FailureKind.UNAUTHENTICATED, id="403"),
        pytest.param(answer(429, BODY), FailureKind.RATE_LIMITED, id="429"),
        pytest.param(answer(500, BODY), FailureKind.UNREACHABLE, id="500"),
        pytest.param(answer(502, BODY), FailureKind.UNREACHABLE, id="502"),
        pytest.param(answer(503, BODY), FailureKind.UNREACHABLE, id="503"),
        pytest.param(answer(400, BODY), FailureKind.UNKNOWN, id="400"),
        pytest.param(answer(404, BODY), FailureKind.UNKNOWN, id="404"),
        pytest.param(answer(418, BODY), FailureKind.UNKNOWN, id="418"),
        pytest.param(answer(200, b"<html>" + CANARY.encode()), FailureKind.UNKNOWN, id="html"),
        pytest.param(answer(200, b""), FailureKind.UNKNOWN, id="empty"),
        pytest.param(answer(200, BODY), FailureKind.UNAUTHENTICATED, id="other-json"),
        pytest.param(write_junk, FailureKind.UNREACHABLE, id="no-http"),
        pytest.param(lambda handler: None, FailureKind.UNREACHABLE, id="hang-up"),
    ],
)
async def test_failed_sign_ins_are_told_apart(
    respond: Callable[[BaseHTTPRequestHandler], None], kind: FailureKind
) -> None:
    """Each answer of the server becomes its kind, and none of its words are repeated.

    Three calls ask a server that refuses us once; one that is out of order is left alone in the end.
    """
    error, requests = await refusal_by(respond)
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert requests == 1 if refuses_us(kind) else requests <= FAILURES_TO_OPEN


async def test_closed_port_is_unreachable() -> None:
    """A server that is not there is `UNREACHABLE`."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        provider = provider_of(make_token(f"http://127.0.0.1:{unused.getsockname()[1]}"))
        assert (await failure_of(provider.get_many([REF]))).kind is FailureKind.UNREACHABLE


async def test_plain_http_where_tls_is_meant_is_unreachable() -> None:
    """An https address whose server speaks no TLS gets no request."""
    with LoopbackServer(answer(401)).running() as server:
        provider = provider_of(make_token(server.address.replace("http:", "https:")))
        assert (await failure_of(provider.get_many([REF]))).kind is FailureKind.UNREACHABLE
    assert server.requests == []


async def test_certificate_that_nobody_vouches_for_is_unreachable(tmp_path: Path) -> None:
    """The core checks certificates: who merely answers on the right address gets no request."""
    with LoopbackServer(answer(401), tls_of_nobody(tmp_path)).running() as server:
        provider = provider_of(make_token(server.address))
        assert (await failure_of(provider.get_many([REF]))).kind is FailureKind.UNREACHABLE
    assert server.requests == []


async def test_hanging_server_holds_up_neither_the_call_nor_the_loop() -> None:
    """The call ends at its deadline; meanwhile the event loop runs on, so the core does not block it."""
    release = threading.Event()
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    with LoopbackServer(hang_until(release)).running() as server:
        provider = provider_of(make_token(server.address), timeout=0.5)
        other = asyncio.create_task(take_turns())
        try:
            assert (await failure_of(provider.get_many([REF]))).kind is FailureKind.TIMEOUT
        finally:
            other.cancel()
            release.set()
    assert turns > 10


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(token_of('{"signInAddress": "http://127.0.0.1:1"}'), id="fields missing"),
        pytest.param(make_token("http://127.0.0.1:1", secretKey="XX"), id="bad secret key"),
        pytest.param(make_token("http://127.0.0.1:1", deviceUuid=None), id="no device"),
    ],
)
async def test_token_that_the_core_cannot_read_is_a_bad_token(token: str) -> None:
    """What the core says of a malformed token becomes `UNAUTHENTICATED`; nothing of the token is repeated."""
    error = await failure_of(provider_of(token).get_many([REF]))
    assert error.kind is FailureKind.UNAUTHENTICATED
    assert token[10:40] not in everything_said(error)


@pytest.mark.parametrize("suffix", ["=", "\n", "-", "_", "!"])
async def test_core_takes_no_other_spelling_of_a_token(suffix: str) -> None:
    """Padding, white space and the URL alphabet are refused by the core, as the broker's own check assumes."""
    client = SdkClient.sign_in(make_token("http://127.0.0.1:1") + suffix)
    with pytest.raises(Exception, match="base64 decoding failed"):
        await client


async def test_core_refuses_a_repeated_address() -> None:
    """Of two addresses in one token the core takes neither, so the broker cannot be shown another than is used."""
    claims = '{"signInAddress": "https://my.1password.com", "signInAddress": "http://127.0.0.1:1"}'
    with pytest.raises(Exception, match="deserialization failed"):
        await SdkClient.sign_in(token_of(claims))


async def test_releasing_an_unknown_session_is_no_error() -> None:
    """Releasing a client that the core does not know, or knows no more, does not raise."""
    core = UniffiCore()
    inner = SimpleNamespace(core=core, client_id=424242)
    client = SimpleNamespace(secrets=SimpleNamespace(inner_client=inner), _finalizer=weakref.finalize(core, int))
    SdkClient(client).release()
    SdkClient(client).release()


def test_core_works_on_uvloop() -> None:
    """On the event loop that workers use, a refusal and a deadline arrive as they do on asyncio's own."""
    uvloop = pytest.importorskip("uvloop")

    async def refused_and_late() -> list[FailureKind]:
        release = threading.Event()
        with LoopbackServer(answer(401)).running() as refusing, LoopbackServer(hang_until(release)).running() as late:
            providers = [provider_of(make_token(refusing.address)), provider_of(make_token(late.address), 0.3)]
            try:
                return [(await failure_of(provider.get_many([REF]))).kind for provider in providers]
            finally:
                release.set()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(refused_and_late()) == [FailureKind.UNAUTHENTICATED, FailureKind.TIMEOUT]
