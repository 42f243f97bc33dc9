"""One run's end of the sealed channel: requests in, envelopes out; envelopes in, replies out. No I/O.

Keys are derived once a peer and remembered, so that a message costs symmetric work only. Whatever arrives that does
not come from the pinned broker, for this run, within its certificate's validity, is counted and ignored: anybody who
owns the queue can put such things there, and must not be able to fail honest requests with them.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass

from agent_sdk.credential import RunCredential
from agent_sdk.errors import CredentialInvalid
from agent_sdk.wire import keynames
from agent_sdk.wire.certificate import verify_certificate
from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.messages import NOTICE, REPLY, Notice, Reply, Request, encode_request
from agent_sdk.wire.sealing import (
    NONCE_BYTES,
    Envelope,
    Kind,
    Opener,
    Sealer,
    derive_key,
    key_id,
    parse_envelope,
    run_exchange_public,
    run_exchange_secret,
)

CLOCK_SKEW = 30_000
"""How far the clocks of agent and broker may differ, in ms."""
REQUEST_SECONDS = 15.0
"""For how long a request is good at most. Whoever waits longer asks again, so that the queue has nothing to keep back
and bring later."""
MAX_SESSIONS = 64
"""How many worker sessions are remembered; the one unused for longest is forgotten first."""


@dataclass(slots=True)
class Ignored:
    """What arrived and was not accepted.

    Args:
        garbage: not an envelope for this run, or one that does not open.
        untrusted: under a certificate that the pinned broker did not sign.
        out_of_date: under a certificate of the pinned broker that is not valid now.
    """

    garbage: int = 0
    untrusted: int = 0
    out_of_date: int = 0


@dataclass(frozen=True, slots=True)
class _Session:
    """A worker's session, verified once. Its times are those of its certificate, ± what clocks may differ."""

    not_before: int
    not_after: int
    replies: Opener
    notices: Opener


class RunChannel:
    """Seals what a run asks and opens what the broker answers.

    Args:
        credential: the run's.

    Raises:
        CredentialInvalid: if its keys cannot be used for an exchange.
    """

    def __init__(self, credential: RunCredential) -> None:
        if not isinstance(credential, RunCredential):
            raise CredentialInvalid(f"a RunCredential is expected; got {type(credential).__name__}")
        self.ignored = Ignored()
        self.replies = keynames.replies(credential.agent_id, keynames.fingerprint(credential.run_public_key))
        self._identity = credential.broker
        self._run_public = credential.run_public_key
        self._secret = run_exchange_secret(credential.seed)
        self._public = run_exchange_public(self._run_public)
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._latest: _Session | None = None
        try:
            key = derive_key(Kind.REQUEST, self._secret, self._public, credential.intake, credential.intake)
        except WireError:
            raise CredentialInvalid("run credential: intake is not an X25519 public key") from None
        requests = keynames.requests(credential.agent_id)
        self._sealer = Sealer(Kind.REQUEST, key, key_id(credential.intake), self._run_public, requests)

    def seal(self, request: Request) -> bytes:
        """Seal a request under a fresh random nonce.

        Raises:
            WireError: `too_large` if it does not fit into an envelope.
        """
        return self._sealer.seal(encode_request(request), os.urandom(NONCE_BYTES))

    def open(self, raw: bytes, now: int) -> Reply | Notice | None:
        """Open what was found on the run's reply stream.

        Args:
            raw: an entry's envelope.
            now: the time, ms since the epoch.

        Returns:
            What the pinned broker said; None if it was not the broker, or not for this run. `ignored` counts why.
        """
        try:
            session = self._latest
            if session is not None and session.not_before <= now <= session.not_after:
                plaintext = session.replies.open(raw)  # what nearly always comes costs the least
                if plaintext is not None:
                    return REPLY.decode(plaintext)
            envelope = parse_envelope(raw)
            session = self._latest = self._session(envelope, now)
            if envelope.kind == Kind.REPLY:
                return REPLY.decode(_opened(session.replies, raw))
            return NOTICE.decode(_opened(session.notices, raw))
        except WireError as error:
            self._count(error)
            return None

    def _count(self, error: WireError) -> None:
        if error.reason != "bad_certificate":
            self.ignored.garbage += 1
        elif error.code == Code.EXPIRED:
            self.ignored.out_of_date += 1
        else:
            self.ignored.untrusted += 1

    def _session(self, envelope: Envelope, now: int) -> _Session:
        if envelope.kind == Kind.REQUEST or envelope.run_public_key != self._run_public:
            raise WireError("the envelope is not for this run")
        session = self._sessions.get(envelope.key_id)
        if session is None:
            session = self._verify(envelope.key_id, now)
            self._sessions[envelope.key_id] = session
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
            return session
        self._sessions.move_to_end(envelope.key_id)
        if not session.not_before <= now <= session.not_after:
            raise WireError("the certificate is not valid now", code=Code.EXPIRED, reason="bad_certificate")
        return session

    def _verify(self, raw: bytes, now: int) -> _Session:
        certificate = verify_certificate(raw, self._identity, now, CLOCK_SKEW)
        peer = certificate.session_public_key
        replies, notices = (
            Opener(kind, derive_key(kind, self._secret, peer, self._public, peer), raw, self._run_public, self.replies)
            for kind in (Kind.REPLY, Kind.NOTICE)
        )
        return _Session(certificate.not_before - CLOCK_SKEW, certificate.not_after + CLOCK_SKEW, replies, notices)


def _opened(opener: Opener, raw: bytes) -> bytes:
    plaintext = opener.open(raw)
    if plaintext is None:
        raise WireError("the envelope is not of the session that it names")
    return plaintext
