"""Test your agent without a broker: the real clients, over an in-memory desk that you script.

    from agent_sdk.testing import FakeSecretBroker

    with FakeSecretBroker({"openai.api_key": "sk-test"}, rate_limited={"github.token": 2.0}) as broker:
        run_my_agent(broker)
        assert broker.desk.requests[0].purpose == "summarise the ticket"

Names that the desk does not know are denied, as everywhere. Sealing, checking and expiry are the production code;
only the queue and the broker behind it are replaced.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import nacl.bindings as sodium

from agent_sdk.blocking import SecretBroker
from agent_sdk.client import TIMEOUT_SECONDS, AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.secret import wall_clock
from agent_sdk.transport import Receiver
from agent_sdk.wire import keynames
from agent_sdk.wire.certificate import issue_certificate
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import (
    NOTICE,
    REPLY,
    ListNames,
    Notice,
    Reply,
    Request,
    Resolve,
    Result,
    decode_request,
)
from agent_sdk.wire.sealing import (
    NONCE_BYTES,
    Kind,
    Sealer,
    derive_key,
    open_envelope,
    parse_envelope,
    run_exchange_public,
    run_public_key,
)

__all__ = ["FakeAsyncSecretBroker", "FakeDesk", "FakeSecretBroker", "RecordedRequest"]

_DAY = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request that reached the desk.

    Args:
        operation: `resolve` or `list`.
        names: the names asked for.
        purpose: what the agent said that it is for.
        ttl: the shorter life that it asked for, in seconds.
    """

    operation: str
    names: tuple[str, ...] = ()
    purpose: str = ""
    ttl: int | None = None


class FakeDesk:
    """Answers sealed requests from a script. Everything public may be changed while it is in use.

    Args:
        values: what may be had, by name.
        rate_limited: names that are refused as such, and after how many seconds to ask again.
        unavailable: names whose vault is down.
        refused: names that are refused with a code of your choice (`approval_pending`, `revoked`, …).
        ttl: how long what it hands out lives.
    """

    def __init__(
        self,
        values: Mapping[str, str | bytes] | None = None,
        *,
        rate_limited: Mapping[str, float] | None = None,
        unavailable: Iterable[str] = (),
        refused: Mapping[str, Code] | None = None,
        ttl: timedelta = timedelta(minutes=5),
    ) -> None:
        self.values = dict(values or {})
        self.rate_limited = dict(rate_limited or {})
        self.unavailable = set(unavailable)
        self.refused = dict(refused or {})
        self.ttl = ttl
        self.silent = False
        """While true, nothing is answered, so that requests end with `Unavailable` at their deadline."""
        self.requests: list[RecordedRequest] = []
        """What was asked, in order."""
        self._connected: list[DeskTransport] = []
        self._ahead = 0
        self._identity_seed = secrets.token_bytes(32)
        self._intake_public, self._intake_secret = sodium.crypto_box_keypair()
        self._session_public, self._session_secret = sodium.crypto_box_keypair()

    def clock(self) -> int:
        """The desk's time, ms since the epoch: the wall clock and what `advance` added."""
        return wall_clock() + self._ahead

    def advance(self, time: timedelta) -> None:
        """Turn the clock of the desk and of its clients forward, so that secrets and runs expire."""
        self._ahead += int(time.total_seconds() * 1000)

    def credential(self, agent_id: str = "test-agent", *, queue_url: str = "unix:///in-memory") -> RunCredential:
        """Mint a run of an agent at this desk."""
        issuer = RunIssuer(secrets.token_bytes(32), "test", clock=self.clock)
        broker = run_public_key(self._identity_seed)
        return issuer.mint(agent_id, broker=broker, intake=self._intake_public, queue_url=queue_url)

    def answer(self, envelope: bytes, agent_id: str) -> bytes | None:
        """Open a request of an agent and seal the reply to it; None while `silent`."""
        parsed = parse_envelope(envelope)
        run_public = parsed.run_public_key
        peer = run_exchange_public(run_public)
        key = derive_key(Kind.REQUEST, self._intake_secret, peer, self._intake_public, peer)
        request = decode_request(open_envelope(key, envelope, parsed, keynames.requests(agent_id)))
        reply = self._reply(request)
        return None if self.silent else self._seal(Kind.REPLY, REPLY.encode(reply), run_public, agent_id)

    def notify(self, notice: Notice) -> None:
        """Show a notice to every client that is connected."""
        for transport in self._connected:
            transport.deliver(self.notice(notice, transport.credential))

    def notice(self, notice: Notice, credential: RunCredential) -> bytes:
        """Seal a notice for a run."""
        return self._seal(Kind.NOTICE, NOTICE.encode(notice), credential.run_public_key, credential.agent_id)

    def connect(self, transport: "DeskTransport", *, connected: bool) -> None:
        """Keep in mind who is shown notices."""
        if connected:
            self._connected.append(transport)
        else:
            self._connected.remove(transport)

    def _seal(self, kind: Kind, plaintext: bytes, run_public: bytes, agent_id: str) -> bytes:
        now = self.clock()
        certificate = issue_certificate(
            self._identity_seed, self._session_public, now - _DAY, now + _DAY, "test-worker"
        )
        peer = run_exchange_public(run_public)
        key = derive_key(kind, self._session_secret, self._session_public, peer, peer)
        stream = keynames.replies(agent_id, keynames.fingerprint(run_public))
        return Sealer(kind, key, certificate, run_public, stream).seal(plaintext, secrets.token_bytes(NONCE_BYTES))

    def _reply(self, request: Request) -> Reply:
        body = request.body
        if isinstance(body, Resolve):
            self.requests.append(RecordedRequest("resolve", body.names, body.purpose, body.ttl))
            results = tuple(self._result(name, body.ttl) for name in body.names)
            granted = sum(result.outcome == "granted" for result in results)
            if granted == len(results):
                return Reply(request.request_id, "ok", results=results)
            return Reply(request.request_id, "partial" if granted else "refused", results=results)
        if isinstance(body, ListNames):
            self.requests.append(RecordedRequest("list"))
            return Reply(request.request_id, "ok", names=tuple(sorted(self.values)))
        return Reply(request.request_id, "refused", Code.INVALID)

    def _result(self, name: str, ttl: int | None) -> Result:
        if name in self.rate_limited:
            return Result(name, "refused", Code.RATE_LIMITED, retry_after=int(self.rate_limited[name] * 1000))
        if name in self.unavailable:
            return Result(name, "refused", Code.UNAVAILABLE)
        if name in self.refused or name not in self.values:
            return Result(name, "refused", self.refused.get(name, Code.DENIED))
        value = self.values[name]
        seconds = self.ttl.total_seconds() if ttl is None else min(ttl, self.ttl.total_seconds())
        return Result(
            name,
            "granted",
            value=value.encode() if isinstance(value, str) else value,
            expires_at=self.clock() + int(seconds * 1000),
            source="provider",
        )


class DeskTransport:
    """Carries envelopes to a `FakeDesk` in the same process and back (`agent_sdk.transport.Transport`).

    Args:
        desk: who answers.
        credential: the run that asks.
    """

    def __init__(self, desk: FakeDesk, credential: RunCredential) -> None:
        self.problem: str | None = None
        self.credential = credential
        self._desk = desk
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, receiver: Receiver) -> None:
        """Remember who takes the answers."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._desk.connect(self, connected=True)

    def send(self, request_id: bytes, envelope: bytes) -> None:  # the protocol's signature
        """Have the desk answer, on a later turn of the event loop, as a queue would."""
        reply = self._desk.answer(envelope, self.credential.agent_id)
        if reply is not None:
            self.deliver(reply)

    def forget(self, request_id: bytes) -> None:
        """Do nothing: what was sent was answered."""

    async def close(self) -> None:
        """Deliver nothing any more."""
        self._receiver = None
        self._desk.connect(self, connected=False)

    def deliver(self, envelope: bytes) -> None:
        """Have an envelope arrive; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrive, envelope)

    def _arrive(self, envelope: bytes) -> None:
        if self._receiver is not None:
            self._receiver.deliver([envelope])


class FakeAsyncSecretBroker(AsyncSecretBroker):
    """An `AsyncSecretBroker` whose broker is a `FakeDesk`.

    Args:
        values: what may be had, by name; ignored if a desk is given.
        desk: who answers; a new one with the values if not given. `desk` is where to script and look.
        agent_id: the agent that it asks as.
        timeout: seconds that a request may take, if the call does not say.
        on_notice: called for each notice.
        rate_limited: see `FakeDesk`.
        unavailable: see `FakeDesk`.
    """

    def __init__(
        self,
        values: Mapping[str, str | bytes] | None = None,
        *,
        desk: FakeDesk | None = None,
        agent_id: str = "test-agent",
        timeout: float = TIMEOUT_SECONDS,
        on_notice: Callable[[Notice], None] | None = None,
        rate_limited: Mapping[str, float] | None = None,
        unavailable: Iterable[str] = (),
    ) -> None:
        self.desk = desk or FakeDesk(values, rate_limited=rate_limited, unavailable=unavailable)
        credential = self.desk.credential(agent_id)
        transport = DeskTransport(self.desk, credential)
        super().__init__(credential, timeout=timeout, on_notice=on_notice, transport=transport, clock=self.desk.clock)


class FakeSecretBroker(SecretBroker):
    """A `SecretBroker` whose broker is a `FakeDesk`; the arguments are those of `FakeAsyncSecretBroker`."""

    def __init__(
        self,
        values: Mapping[str, str | bytes] | None = None,
        *,
        desk: FakeDesk | None = None,
        agent_id: str = "test-agent",
        timeout: float = TIMEOUT_SECONDS,
        on_notice: Callable[[Notice], None] | None = None,
        rate_limited: Mapping[str, float] | None = None,
        unavailable: Iterable[str] = (),
    ) -> None:
        self.desk = desk or FakeDesk(values, rate_limited=rate_limited, unavailable=unavailable)
        super().__init__(
            client=lambda: FakeAsyncSecretBroker(
                desk=self.desk, agent_id=agent_id, timeout=timeout, on_notice=on_notice
            )
        )
