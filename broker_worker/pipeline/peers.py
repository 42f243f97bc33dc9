"""Runs that have proved themselves: their derived keys and verified tokens, remembered so that a message is cheap.

Deriving keys and verifying a token cost a quarter of a millisecond; opening a message of a known peer costs six
microseconds. A peer is remembered only after its message opened and its token verified.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from agent_sdk.wire import keynames
from agent_sdk.wire.sealing import REQUEST_START_BYTES, Kind, Opener, Sealer, derive_key
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.pipeline.session import Session

MAX_TOKENS_PER_PEER = 4


@dataclass(slots=True)
class Peer:
    """A run as the sender of one agent's stream.

    Args:
        agent_id: the stream's agent.
        run_public_key: its Ed25519 key.
        exchange_public: the X25519 form of it.
        requests: opens its requests to one intake key.
    """

    agent_id: str
    run_public_key: bytes
    exchange_public: bytes
    requests: Opener = field(repr=False)
    fingerprint: str = field(init=False)
    reply_stream: str = field(init=False)
    _tokens: dict[str, RunIdentity] = field(default_factory=dict, repr=False)
    _sealer: Sealer | None = field(default=None, repr=False)
    _session: Session | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.fingerprint = keynames.fingerprint(self.run_public_key)
        self.reply_stream = keynames.replies(self.agent_id, self.fingerprint)

    def identity_of(self, token: str) -> RunIdentity | None:
        """The identity that `token` was verified to prove, if it was."""
        return self._tokens.get(token)

    def identities(self) -> list[RunIdentity]:
        """What the tokens of this run that were verified prove."""
        return list(self._tokens.values())

    def remember(self, token: str, identity: RunIdentity) -> None:
        """Remember a verified token of this run."""
        while len(self._tokens) >= MAX_TOKENS_PER_PEER:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = identity

    def forget_tokens(self) -> None:
        """Have every token verified again, because the trust anchors may have changed."""
        self._tokens.clear()

    def seal(self, session: Session, plaintext: bytes, nonce: bytes) -> bytes:
        """Seal a reply with the worker's current session key.

        Raises:
            WireError: code `too_large` if the plaintext does not fit.
        """
        if self._sealer is None or self._session is not session:
            key = derive_key(
                Kind.REPLY, session.secret, session.public, self.exchange_public, peer=self.exchange_public
            )
            self._sealer = Sealer(Kind.REPLY, key, session.certificate, self.run_public_key, self.reply_stream)
            self._session = session
        return self._sealer.seal(plaintext, nonce)


class PeerCache:
    """The peers that were used last, at most `limit` of them.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._peers: OrderedDict[tuple[str, bytes], Peer] = OrderedDict()

    def find(self, agent_id: str, raw: bytes) -> Peer | None:
        """The peer that an envelope on an agent's stream is of, if it is remembered; the envelope proves nothing yet.

        Its first bytes name the run's key and the intake key, in the one form that they have.
        """
        return self._peers.get((agent_id, raw[:REQUEST_START_BYTES]))

    def add(self, peer: Peer) -> None:
        """Remember a peer, and forget the one that was added first if there are too many."""
        self._peers[peer.agent_id, peer.requests.start] = peer
        if len(self._peers) > self._limit:
            self._peers.popitem(last=False)

    def of_agent(self, agent_id: str | None) -> list[Peer]:
        """The peers of an agent, or all."""
        return [peer for peer in self._peers.values() if agent_id is None or peer.agent_id == agent_id]

    def forget_tokens(self) -> None:
        """Have every peer's tokens verified again."""
        for peer in self._peers.values():
            peer.forget_tokens()

    def clear(self) -> None:
        """Forget everybody, because the intake keys changed."""
        self._peers.clear()
