"""A worker's session key: made in memory, certified by the broker's identity, rotated, never written anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field

import nacl.bindings as sodium

from agent_sdk.wire.certificate import issue_certificate
from agent_sdk.wire.sealing import NONCE_BYTES

_NONCES_AT_ONCE = 256
LIFETIME_MS = 2 * 3600 * 1000
"""How long a certificate is valid, ms; a session is replaced after half of it."""
BACKDATE_MS = 60_000
"""How far a certificate's start lies back, so that an agent's clock may be a little behind."""


class Nonces:
    """Random nonces, drawn from the system many at a time: a call of the system each costs as much as the sealing.

    Args:
        entropy: makes n random bytes.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._drawn = b""
        self._at = 0

    def draw(self) -> bytes:
        """24 bytes that were never handed out before."""
        start, self._at = self._at, self._at + NONCE_BYTES
        if self._at > len(self._drawn):
            self._drawn = self._entropy(NONCE_BYTES * _NONCES_AT_ONCE)
            start, self._at = 0, NONCE_BYTES
        return self._drawn[start : self._at]


@dataclass(frozen=True, slots=True)
class Session:
    """One session key pair with its certificate, which begins at `begins_at`. Times are in ms since the epoch."""

    public: bytes
    secret: bytes = field(repr=False)
    certificate: bytes
    begins_at: int
    rotate_at: int

    def is_over(self, now: int) -> bool:
        """Whether another one is due: at its time, or because the clock was set back and nobody would accept it."""
        return not self.begins_at <= now < self.rotate_at


def start_session(identity_seed: bytes, worker_id: str, now: int, entropy: bytes) -> Session:
    """Make a session.

    Args:
        identity_seed: the broker's Ed25519 identity seed.
        worker_id: names this worker process in the certificate.
        now: the time, ms since the epoch.
        entropy: 32 random bytes: the X25519 secret.

    Returns:
        The session, certified from a minute ago for two hours.
    """
    public = sodium.crypto_scalarmult_base(entropy)
    begins_at = now - BACKDATE_MS
    certificate = issue_certificate(identity_seed, public, begins_at, now + LIFETIME_MS, worker_id)
    return Session(public, entropy, certificate, begins_at, now + LIFETIME_MS // 2)
