"""What every page works with, handed in from outside."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Engine
from starlette.requests import Request

from broker_worker.core.configuration import Configuration
from broker_worker.core.revocations import Kind, Revocation
from broker_worker.dashboard.feed import Feed
from broker_worker.dashboard.links import Links
from broker_worker.dashboard.sessions import Session, Sessions
from broker_worker.settings import Settings


class Revoke(Protocol):
    """Signs and publishes an order to refuse a subject (`broker_worker.people.revoking.revoke`)."""

    def __call__(
        self, settings: Settings, kind: Kind, subject: str, *, version: str | None = None, reason: str, by: str
    ) -> Awaitable[Revocation]:
        """Refuse `subject` from now on.

        Raises:
            BrokerError: if it is no subject of that kind, or the order could not be made durable.
        """
        ...


class RevokeAll(Protocol):
    """The same for several subjects of a kind by one write (`broker_worker.people.revoking.revoke_all`)."""

    def __call__(
        self, settings: Settings, kind: Kind, subjects: Sequence[str], *, reason: str, by: str
    ) -> Awaitable[Sequence[Revocation]]:
        """Refuse all of them from now on.

        Raises:
            BrokerError: as `Revoke` does; none of them need be in force then.
        """
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What every page works with.

    Args:
        settings: where the installation lives.
        configuration: reads the operator's files as they are now.
        ledger: the run ledger's database, to read.
        approvals: what people are asked.
        revoke: signs and publishes a revocation.
        revoke_all: the same for several subjects at once.
        clock: the time, ms since the epoch.
        origin: where browsers visit, such as `http://localhost:7710`.
        links: one-time links.
        sessions: who is logged in.
    """

    settings: Settings
    configuration: Callable[[], Configuration]
    ledger: Engine
    approvals: Feed
    revoke: Revoke
    revoke_all: RevokeAll
    clock: Callable[[], int]
    origin: str
    links: Links
    sessions: Sessions = field(default_factory=Sessions)

    @property
    def cookie(self) -> str:
        """The name of the session's cookie; with the port, as cookies of one host are shared by all of its ports."""
        scheme, _, host = self.origin.partition("://")
        return "__Host-secret-broker" if scheme == "https" else f"secret-broker-{host.rpartition(':')[2]}"


def context_of(request: Request) -> Context:
    """What the page of this request works with."""
    context: Context = request.app.state.context
    return context


def session_of(request: Request) -> Session | None:
    """Who asks; None only on the pages that can be seen without a login."""
    session: Session | None = getattr(request.state, "session", None)
    return session
