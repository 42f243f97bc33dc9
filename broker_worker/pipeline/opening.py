"""From bytes on a stream to an ask with a proven identity, or to a refusal.

Entries of known peers are opened at once. The others need key derivation and a signature check; they wait in a
bounded queue an agent and are opened a few a turn, round robin, so that many new runs, or an agent that writes
junk, do not make everybody else wait.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import Request
from agent_sdk.wire.request_decoder import RequestDecoder
from agent_sdk.wire.sealing import Envelope, Kind, derive_key, parse_envelope, run_exchange_public
from agent_sdk.wire.sealing import Opener as EnvelopeOpener
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier
from broker_worker.core.limits import Rate, count_one
from broker_worker.pipeline.batch import Ask
from broker_worker.pipeline.peers import Peer, PeerCache
from broker_worker.ports import Entry

MAX_HORIZON_MS = 15 * 60 * 1000
"""How far ahead a deadline may lie; replay marks are kept that long."""
UNPROVEN = Rate(2, 1000, 100)
"""How many whose tokens prove nothing are told so, an agent: anybody who may write to its stream can make up keys, and
for each of them the queue keeps a reply stream of 4 KiB for 20 minutes."""


@dataclass(frozen=True, slots=True)
class Intake:
    """One intake key: the X25519 pair that requests are sealed to."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(slots=True)
class Opened:
    """What became of entries: asks to go on with, and junk that nobody can be held to."""

    asks: list[Ask] = field(default_factory=list)
    junk: list[tuple[Entry, str]] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """Where all of it was."""
        return [ask.entry for ask in self.asks] + [entry for entry, _ in self.junk]


class Opener:
    """Opens entries and proves who sent them.

    Args:
        intakes: intake keys by their 8-byte id.
        verifier: checks identity tokens.
        peers: where proven runs are remembered.
        skew: how far clocks may differ, ms.
        max_cold: how many entries of unknown peers wait, per agent.
    """

    def __init__(
        self,
        intakes: Mapping[bytes, Intake],
        verifier: TokenVerifier,
        peers: PeerCache,
        skew: int,
        max_cold: int = 1024,
    ) -> None:
        self._intakes = intakes
        self.verifier = verifier
        self._peers = peers
        self.skew = skew
        self._max_cold = max_cold
        self._requests = RequestDecoder()
        self._cold: OrderedDict[str, deque[tuple[Entry, Envelope]]] = OrderedDict()
        self._told: dict[str, int] = {}

    @property
    def has_cold(self) -> bool:
        """Whether entries of unknown peers wait."""
        return bool(self._cold)

    def replace_intakes(self, intakes: Mapping[bytes, Intake]) -> None:
        """Use these intake keys from now on; whoever sealed to one that is gone is no longer understood."""
        if intakes.keys() != self._intakes.keys():
            self._peers.clear()
        self._intakes = intakes

    def forget_tokens(self) -> None:
        """Have every token verified again."""
        self._peers.forget_tokens()

    def open(self, entries: Sequence[Entry], now: int) -> Opened:
        """Open what known peers sent; set the rest aside.

        Args:
            entries: as read, in any order.
            now: the time, ms since the epoch.
        """
        opened = Opened()
        for entry in entries:
            if entry.fault is not None:
                opened.junk.append((entry, entry.fault))
                continue
            try:
                peer = self._peers.find(entry.agent_id, entry.raw)
                ask = None if peer is None else self._open_known(entry, peer)
                if ask is None:
                    self._set_aside(entry, _parsed(entry), opened)
                else:
                    opened.asks.append(self._checked(ask, now))
            except WireError as error:
                opened.junk.append((entry, error.reason))
        return opened

    def open_cold(self, limit: int, now: int, opened: Opened) -> None:
        """Prove up to `limit` unknown peers, one an agent in turn; what they sent besides costs no part of it.

        Args:
            limit: how many.
            now: the time, ms since the epoch.
            opened: what became of their entries is added to it.
        """
        while self._cold:
            agent_id, queue = next(iter(self._cold.items()))
            entry, envelope = queue[0]
            try:
                peer = self._peers.find(agent_id, entry.raw)
                ask = None if peer is None else self._open_known(entry, peer)
                if ask is None:
                    if limit <= 0:
                        break
                    limit -= 1
                    ask = self._open_unknown(entry, envelope, now)
            except WireError as error:
                opened.junk.append((entry, error.reason))
            else:
                opened.asks.append(ask if ask.code else self._checked(ask, now))
            queue.popleft()
            self._cold.move_to_end(agent_id)
            if not queue:
                del self._cold[agent_id]

    def _set_aside(self, entry: Entry, envelope: Envelope, opened: Opened) -> None:
        queue = self._cold.setdefault(entry.agent_id, deque())
        if len(queue) >= self._max_cold:
            opened.junk.append((entry, "too_many_unproven"))
        else:
            queue.append((entry, envelope))

    def _open_known(self, entry: Entry, peer: Peer) -> Ask | None:
        """Open with remembered keys; None if the token in it is not one that was verified."""
        plain = peer.requests.open(entry.raw)
        if plain is None:
            raise _not_opened(entry)
        request = self._requests.decode(plain)
        identity = peer.identity_of(request.token)
        return None if identity is None else Ask(entry, peer, identity, request)

    def _open_unknown(self, entry: Entry, envelope: Envelope, now: int) -> Ask:
        """Derive keys, open, verify the token; remember the peer only if all of it holds."""
        intake = self._intakes.get(envelope.key_id)
        if intake is None:
            raise WireError("sealed to an intake key that this broker does not have", reason="unknown_intake_key")
        exchange = run_exchange_public(envelope.run_public_key)
        key = derive_key(Kind.REQUEST, intake.secret, exchange, intake.public, peer=exchange)
        stream = keynames.requests(entry.agent_id)
        requests = EnvelopeOpener(Kind.REQUEST, key, envelope.key_id, envelope.run_public_key, stream)
        peer = Peer(entry.agent_id, envelope.run_public_key, exchange, requests)
        plain = peer.requests.open(entry.raw)
        if plain is None:
            raise _not_opened(entry)
        request = self._requests.decode(plain)
        try:
            identity = self.verifier.verify(request.token, now)
            _check_agreement(identity, peer)
        except WireError as error:
            if not self._may_tell(entry):
                raise
            return _refused(entry, peer, request, error)
        peer.remember(request.token, identity)
        self._peers.add(peer)
        return Ask(entry, peer, identity, request)

    def _may_tell(self, entry: Entry) -> bool:
        """Whether somebody unproven is answered, or only counted; a run that proved itself before always is."""
        if self._peers.find(entry.agent_id, entry.raw) is not None:
            return True
        is_within, arrival = count_one(UNPROVEN, self._told.get(entry.agent_id, 0), entry.received_us)  # never set back
        if is_within:
            self._told[entry.agent_id] = arrival
        return is_within

    def _checked(self, ask: Ask, now: int) -> Ask:
        """Refuse what is over, not yet issued, or asks to be remembered for too long."""
        request = ask.request
        if ask.identity.expires_at <= now - self.skew:
            ask.refuse(Code.EXPIRED, "token_expired")
        elif request.deadline <= now:
            ask.refuse(Code.EXPIRED, "deadline_passed")
        elif request.issued_at > now + self.skew:
            ask.refuse(Code.INVALID, "issued_in_the_future")
        elif request.deadline > now + MAX_HORIZON_MS + self.skew:
            ask.refuse(Code.INVALID, "deadline_too_far")
        return ask


def _parsed(entry: Entry) -> Envelope:
    envelope = parse_envelope(entry.raw)
    if envelope.kind != Kind.REQUEST:
        raise WireError("the envelope is no request", reason="not_a_request")
    return envelope


def _not_opened(entry: Entry) -> WireError:
    """What is wrong with an envelope that begins like one of a run, and is none."""
    try:
        _parsed(entry)
    except WireError as error:
        return error
    return WireError("the envelope is not of the run that it names", reason="cannot_open")


def _check_agreement(identity: RunIdentity, peer: Peer) -> None:
    """Identity comes from the token; the stream and the sealing key must say the same (threat model, promise 4)."""
    if identity.agent_id != peer.agent_id:
        raise WireError("the token is another agent's", code=Code.UNAUTHENTICATED, reason="agent_disagrees")
    if identity.run_public_key != peer.run_public_key:
        raise WireError("the token is bound to another key", code=Code.UNAUTHENTICATED, reason="run_key_disagrees")


def _refused(entry: Entry, peer: Peer, request: Request, error: WireError) -> Ask:
    """An ask of somebody unproven: it is answered, since it holds the key that it is answered to, and no more."""
    nobody = RunIdentity("", entry.agent_id, "", peer.run_public_key, "", 0, 0)
    ask = Ask(entry, peer, nobody, request)
    ask.refuse(error.code, error.reason)
    return ask
