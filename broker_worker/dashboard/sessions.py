"""Who is logged in. A session lives in this process alone, so that ending it here ends it everywhere."""

import secrets
from dataclasses import dataclass, field
from typing import Final

from itsdangerous import BadSignature, Signer

from broker_worker.core.approvals import Verdict

IDLE_MS: Final = 30 * 60 * 1000
"""A session that nobody used for this long is over, ms."""
ABSOLUTE_MS: Final = 12 * 3600 * 1000
"""A session ends at this age, however busy it is, ms."""
MAX_SESSIONS: Final = 64
MAX_CHALLENGES: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A decision that a browser was asked to have signed.

    Args:
        approval_id: of the request that it is about.
        request: the request's digest.
        verdict: `approve` or `deny`.
        approver: who is to sign.
        decided_at: when it was asked for, ms since the epoch; it is part of what is signed.
        reason: in the person's words.
    """

    approval_id: str
    request: bytes
    verdict: Verdict
    approver: str
    decided_at: int
    reason: str


@dataclass(slots=True)
class Session:
    """One browser that logged in.

    Args:
        session_id: random; what the cookie holds, signed.
        csrf: random; what every form of this session carries.
        created_at: when it logged in, ms since the epoch.
        seen_at: when it was last used, ms since the epoch.
        approver: as whom the person decided last.
        notice: what the next page says about what was done just now.
        asked: by challenge, the decisions that this session was asked to have signed; each is used once.
    """

    session_id: str = field(repr=False)
    csrf: str = field(repr=False)
    created_at: int
    seen_at: int
    approver: str = ""
    notice: str = ""
    asked: dict[bytes, Asked] = field(default_factory=dict, repr=False)

    def is_over(self, now: int) -> bool:
        """Whether it was idle too long, is too old, or the clock went back behind its beginning."""
        return now >= self.seen_at + IDLE_MS or now >= self.created_at + ABSOLUTE_MS or now < self.created_at - IDLE_MS

    def ask(self, challenge: bytes, asked: Asked) -> None:
        """Remember a challenge that was handed out; the oldest are forgotten first."""
        while len(self.asked) >= MAX_CHALLENGES:
            del self.asked[next(iter(self.asked))]
        self.asked[challenge] = asked


class Sessions:
    """All of them. The cookie is signed with a key that this process made, so a made-up one is refused unread."""

    def __init__(self) -> None:
        self._signer = Signer(secrets.token_bytes(32), salt="secret-broker dashboard session")
        self._open: dict[str, Session] = {}

    def begin(self, now: int) -> tuple[Session, str]:
        """Log a browser in.

        Args:
            now: the time, ms since the epoch.

        Returns:
            The session, and its cookie's value.
        """
        self._purge(now)
        while len(self._open) >= MAX_SESSIONS:
            del self._open[min(self._open.values(), key=lambda session: session.seen_at).session_id]
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), now, now)
        self._open[session.session_id] = session
        return session, self._signer.sign(session.session_id).decode()

    def find(self, cookie: str | None, now: int, *, is_use: bool = True) -> Session | None:
        """The session of a cookie, if it goes on.

        Args:
            cookie: as the browser sent it.
            now: the time, ms since the epoch.
            is_use: whether somebody is there: what a page does by itself does not keep a session alive.
        """
        if not cookie:
            return None
        try:
            session = self._open.get(self._signer.unsign(cookie).decode("ascii", "replace"))
        except BadSignature:
            return None
        if session is None:
            return None
        if session.is_over(now):
            self.end(session)
            return None
        if is_use:
            session.seen_at = max(session.seen_at, now)
        return session

    def goes_on(self, session: Session, now: int) -> bool:
        """Whether a session that was found earlier is still open."""
        return self._open.get(session.session_id) is session and not session.is_over(now)

    def end(self, session: Session) -> None:
        """Log one browser out."""
        self._open.pop(session.session_id, None)

    def end_all(self) -> None:
        """Log every browser out."""
        self._open.clear()

    def _purge(self, now: int) -> None:
        for session in [session for session in self._open.values() if session.is_over(now)]:
            self.end(session)
