"""The broker of a test: opens sealed requests, answers them from a script, and tells what happened since."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

import nacl.bindings as sodium
from msgspec import structs

from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.secret import wall_clock
from agent_sdk.testing.leases import FakeLease, FakeLeases
from agent_sdk.testing.people import FakeApproval, FakePeople, Person, State
from agent_sdk.testing.transport import DeskTransport
from agent_sdk.wire import keynames
from agent_sdk.wire.certificate import issue_certificate
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import (
    NOTICE,
    REPLY,
    Call,
    Delivery,
    Generate,
    ListNames,
    Notice,
    OwnDelivery,
    Put,
    Release,
    Renew,
    Reply,
    Report,
    Request,
    Resolve,
    Result,
    Subject,
    Way,
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

_DAY = 24 * 3600 * 1000
_WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request that reached the desk.

    Args:
        operation: `resolve`, `list`, `renew`, `release`, `put`, `generate` or `report`.
        names: the names asked for, or the one whose lease it is about.
        purpose: what the agent said that it is for.
        ttl: the shorter life that it asked for, in seconds.
        deliver: how the values were to reach the work, if all the same way.
        subject: on whose behalf it asked, if not its own.
        ways: how each of them was to, if not.
    """

    operation: str
    names: tuple[str, ...] = ()
    purpose: str = ""
    ttl: int | None = None
    deliver: Delivery = "value"
    subject: Subject | None = None
    ways: Mapping[str, OwnDelivery] = field(default_factory=dict)


class FakeDesk:
    """Answers sealed requests from a script. Everything public may be changed while it is in use.

    Args:
        values: what may be had, by name.
        rate_limited: names that are refused as such, and after how many seconds to ask again.
        unavailable: names whose vault is down.
        refused: names that are refused with a code of your choice (`approval_pending`, `revoked`, …).
        ttl: how long what it hands out lives.
        needs_approval: names that people have to approve first.
        person: decides on what people are asked, right after the agent was told that it has to wait; without one it
            waits for `approve`, `deny` or `expire`.
    """

    def __init__(
        self,
        values: Mapping[str, str | bytes] | None = None,
        *,
        rate_limited: Mapping[str, float] | None = None,
        unavailable: Iterable[str] = (),
        refused: Mapping[str, Code] | None = None,
        ttl: timedelta = timedelta(minutes=5),
        needs_approval: Iterable[str] = (),
        person: Person | None = None,
    ) -> None:
        self.values = dict(values or {})
        self.rate_limited = dict(rate_limited or {})
        self.unavailable = set(unavailable)
        self.refused = dict(refused or {})
        self.ttl = ttl
        self.max_ttl = timedelta(hours=1)
        """How long a lease can be renewed at most."""
        self.versions: dict[str, int] = {}
        """The version of each name that was written or rotated here."""
        self.ways: dict[str, tuple[Way, ...]] = {}
        """The ways in which a name may be had, where that is not every way; any other is denied."""
        self.needs_approval = set(needs_approval)
        self.person = person
        self.grant: Literal["once", "run"] = "once"
        """What an approval is good for: one release, or all of the run's that ask for the same."""
        self.approval_ttl = timedelta(minutes=10)
        """For how long people may decide."""
        self.revoked: set[str] = set()
        """Names that are refused as revoked; `revoke` fills it, and whoever reinstates a name takes it out."""
        self.revoked_runs: set[bytes] = set()
        """The public keys of runs that were revoked; `revoke_runs` fills it."""
        self.silent = False
        """While true, nothing is answered, so that requests end with `Unavailable` at their deadline."""
        self.requests: list[RecordedRequest] = []
        """What was asked, in order."""
        self.calls: list[Call] = []
        """What was reported of calls on behalf of runs, in order."""
        self._connected: list[DeskTransport] = []
        self._people = FakePeople()
        self._leases = FakeLeases()
        self._ahead = 0
        self._identity_seed = secrets.token_bytes(32)
        self._intake_public, self._intake_secret = sodium.crypto_box_keypair()
        self._session_public, self._session_secret = sodium.crypto_box_keypair()

    def clock(self) -> int:
        """The desk's time, ms since the epoch: the wall clock and what `advance` added."""
        return wall_clock() + self._ahead

    def advance(self, time: timedelta) -> None:
        """Turn the clock of the desk and of its clients forward, so that secrets and runs expire."""
        self._ahead += _milliseconds(time)

    def credential(self, agent_id: str = "test-agent", *, queue_url: str = "unix:///in-memory") -> RunCredential:
        """Mint a run of an agent at this desk.

        Args:
            agent_id: the agent.
            queue_url: what the credential says of the queue; nothing connects to it.
        """
        issuer = RunIssuer(secrets.token_bytes(32), "test", clock=self.clock)
        broker = run_public_key(self._identity_seed)
        return issuer.mint(agent_id, broker=broker, intake=self._intake_public, queue_url=queue_url)

    @property
    def approvals(self) -> list[FakeApproval]:
        """What people were asked, in order."""
        return self._people.asked

    @property
    def leases(self) -> list[FakeLease]:
        """What was released to whom, in order."""
        return self._leases.issued

    def approve(self, approval: FakeApproval | None = None, *, notify: bool = True) -> None:
        """Approve what an agent asked for, or all that waits.

        Args:
            approval: one of `approvals`.
            notify: whether the agent is told; if not, it learns of it when it asks again.
        """
        self._decide("approved", approval, notify=notify)

    def deny(self, approval: FakeApproval | None = None, *, notify: bool = True) -> None:
        """Refuse what an agent asked for, or all that waits; see `approve`."""
        self._decide("denied", approval, notify=notify)

    def expire(self, approval: FakeApproval | None = None, *, notify: bool = True) -> None:
        """Have nobody decide in time; see `approve`."""
        self._decide("expired", approval, notify=notify)

    def consult(self) -> None:
        """Have `person` decide on what waits."""
        if self.person is None:
            return
        for approval in [each for each in self.approvals if each.state == "waiting"]:
            verdict = self.person(approval)
            if verdict is not None:
                self._decide("approved" if verdict == "approve" else "denied", approval, notify=True)

    def revoke(self, name: str) -> None:
        """Revoke a secret: it is refused from now on, and whoever holds it is told."""
        self.revoked.add(name)
        for lease in self._leases.end(name, "revoked", self.clock()):
            self.notify(Notice("lease_revoked", self.clock(), name, lease.lease_id), lease.run_key)

    def revoke_runs(self) -> None:
        """Revoke every run that is connected: all that it asks is refused from now on, and it is told."""
        self.revoked_runs |= {each.credential.run_public_key for each in self._connected}
        self.notify(Notice("run_revoked", self.clock()))

    def rotate(self, name: str, value: str | bytes) -> None:
        """Put a new value in place of one, and tell whoever holds the old one.

        Args:
            name: the secret.
            value: a text (UTF-8) or bytes.
        """
        self.values[name] = value
        self.versions[name] = self.versions.get(name, 0) + 1
        for lease in self._leases.end(name, "superseded", self.clock()):
            self.notify(Notice("secret_rotated", self.clock(), name), lease.run_key)

    def answer(self, envelope: bytes, agent_id: str) -> bytes | None:
        """Open a request of an agent and seal the reply to it; None while `silent`."""
        parsed = parse_envelope(envelope)
        run_key = parsed.run_public_key
        peer = run_exchange_public(run_key)
        key = derive_key(Kind.REQUEST, self._intake_secret, peer, self._intake_public, peer)
        request = decode_request(open_envelope(key, envelope, parsed, keynames.requests(agent_id)))
        if self.silent:
            self._record(request, run_key)
            return None
        return self._seal(Kind.REPLY, REPLY.encode(self._reply(request, run_key)), run_key, agent_id)

    def notify(self, notice: Notice, run_key: bytes | None = None) -> None:
        """Show a notice to every client that is connected, or to those of one run.

        Args:
            notice: what happened; `at` is in ms since the epoch, as `clock` says it.
            run_key: the run's public key (`RunCredential.run_public_key`).
        """
        for transport in list(self._connected):
            if run_key in (None, transport.credential.run_public_key):
                transport.deliver(self.notice(notice, transport.credential))

    def notice(self, notice: Notice, credential: RunCredential) -> bytes:
        """Seal a notice for a run."""
        return self._seal(Kind.NOTICE, NOTICE.encode(notice), credential.run_public_key, credential.agent_id)

    def connect(self, transport: DeskTransport, *, connected: bool) -> None:
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

    def _decide(self, state: State, approval: FakeApproval | None, *, notify: bool) -> None:
        for each in self._people.decide(state, approval):
            if notify:
                settled = Notice("approval_settled", self.clock(), approval=bytes.fromhex(each.approval_id))
                self.notify(settled, each.run_key)

    def _record(self, request: Request, run_key: bytes) -> None:
        body = request.body
        if isinstance(body, Resolve):
            ways = dict(zip(body.names, body.ways, strict=False))
            recorded = RecordedRequest("resolve", body.names, body.purpose, body.ttl, body.deliver, body.subject, ways)
            self.requests.append(recorded)
        elif isinstance(body, ListNames):
            self.requests.append(RecordedRequest("list"))
        elif isinstance(body, Put | Generate):
            operation = "put" if isinstance(body, Put) else "generate"
            self.requests.append(RecordedRequest(operation, (body.name,), body.purpose))
        elif isinstance(body, Renew | Release):
            lease = self._leases.of_run(body.lease, run_key)
            operation = "renew" if isinstance(body, Renew) else "release"
            self.requests.append(RecordedRequest(operation, () if lease is None else (lease.name,)))
        else:
            names = tuple(call.name for call in body.calls)
            self.requests.append(RecordedRequest("report", names, subject=body.subject))
            self.calls += body.calls

    def _reply(self, request: Request, run_key: bytes) -> Reply:
        self._record(request, run_key)
        body = request.body
        if run_key in self.revoked_runs:
            return Reply(request.request_id, "refused", Code.REVOKED)
        if isinstance(body, ListNames):
            names = tuple(sorted(self.values))
            return Reply(
                request.request_id, "ok", names=names, ways=tuple(self.ways.get(name, _WAYS) for name in names)
            )
        if isinstance(body, Resolve):
            results = self._results(body, run_key)
        elif isinstance(body, Put | Generate):
            results = (self._write(body, run_key),)
        elif isinstance(body, Report):
            return Reply(request.request_id, "ok")
        elif (lease := self._leases.of_run(body.lease, run_key)) is None:
            return Reply(request.request_id, "refused", Code.INVALID)
        elif isinstance(body, Renew):
            results = (self._leases.renew(lease, _milliseconds(self.ttl), self.clock()),)
        else:
            results = (self._leases.release(lease),)
        granted = sum(result.outcome == "granted" for result in results)
        if granted == len(results):
            return Reply(request.request_id, "ok", results=results)
        return Reply(request.request_id, "partial" if granted else "refused", results=results)

    def _results(self, body: Resolve, run_key: bytes) -> tuple[Result, ...]:
        now = self.clock()
        way_of = dict(zip(body.names, body.ways or (body.deliver,) * len(body.names), strict=True))
        results = {name: self._refusal(name, way) for name, way in way_of.items()}
        guarded = [name for name in body.names if results[name] is None and name in self.needs_approval]
        for way in dict.fromkeys(way_of[name] for name in guarded):  # people decide about each way by itself
            names = [name for name in guarded if way_of[name] == way]
            refusals = self._refusals(run_key, names, way, body.purpose, now)
            results.update({refusal.name: refusal for refusal in refusals})
        return tuple(results[name] or self._grant(name, body.ttl, run_key, now) for name in body.names)

    def _refusals(
        self, run_key: bytes, names: Sequence[str], way: Delivery, purpose: str, now: int
    ) -> Sequence[Result]:
        waits, once = _milliseconds(self.approval_ttl), self.grant == "once"
        return self._people.refusals(run_key, names, way, purpose, now, waits, single_use=once)

    def _write(self, body: Put | Generate, run_key: bytes) -> Result:
        """Store a value, or a made-up one where the broker would make one."""
        name, now = body.name, self.clock()
        refused = None if name not in self.values and name not in self.refused else self._refusal(name)
        if refused is None and name in self.needs_approval:
            refused, *_ = (*self._refusals(run_key, [name], "value", body.purpose, now), None)
        if refused is not None:
            return refused
        there = str(self.versions.get(name, 1)) if name in self.values else None
        if body.replaces != there:
            return Result(name, "refused", Code.CONFLICT, version=there)
        value = body.value if isinstance(body, Put) else f"made by {body.recipe}, {secrets.token_hex(8)}".encode()
        self.versions[name] = 0 if there is None else int(there)
        self.rotate(name, value)
        version = str(self.versions[name])
        if isinstance(body, Generate) and body.reveal:
            return structs.replace(self._grant(name, None, run_key, now), version=version)
        return Result(name, "granted", version=version)

    def _refusal(self, name: str, way: Delivery | None = None) -> Result | None:
        if way is not None and not set(way.split(",")) <= set(self.ways.get(name, _WAYS)):
            return Result(name, "refused", Code.DENIED)
        if name in self.rate_limited:
            return Result(name, "refused", Code.RATE_LIMITED, retry_after=int(self.rate_limited[name] * 1000))
        if name in self.unavailable:
            return Result(name, "refused", Code.UNAVAILABLE)
        if name in self.revoked:
            return Result(name, "refused", Code.REVOKED)
        if name in self.refused or name not in self.values:
            return Result(name, "refused", self.refused.get(name, Code.DENIED))
        return None

    def _grant(self, name: str, ttl: int | None, run_key: bytes, now: int) -> Result:
        value = self.values[name]
        lifetime = _milliseconds(self.ttl) if ttl is None else min(ttl * 1000, _milliseconds(self.ttl))
        lease = self._leases.open(name, run_key, now + lifetime, now + _milliseconds(self.max_ttl), now)
        return Result(
            name,
            "granted",
            value=value.encode() if isinstance(value, str) else value,
            expires_at=now + lifetime,
            lease=lease.token,
            source="provider",
            version=str(self.versions[name]) if name in self.versions else None,
        )


def _milliseconds(time: timedelta) -> int:
    return int(time.total_seconds() * 1000)
