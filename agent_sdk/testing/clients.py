"""The production clients over a `FakeDesk`."""

from collections.abc import Callable, Iterable, Mapping

from agent_sdk.blocking import SecretBroker
from agent_sdk.client import TIMEOUT_SECONDS, AsyncSecretBroker
from agent_sdk.testing.desk import FakeDesk
from agent_sdk.testing.people import Person
from agent_sdk.testing.transport import DeskTransport
from agent_sdk.wire.messages import Notice


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
        needs_approval: see `FakeDesk`.
        person: see `FakeDesk`.
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
        needs_approval: Iterable[str] = (),
        person: Person | None = None,
    ) -> None:
        self.desk = desk or FakeDesk(
            values, rate_limited=rate_limited, unavailable=unavailable, needs_approval=needs_approval, person=person
        )
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
        needs_approval: Iterable[str] = (),
        person: Person | None = None,
    ) -> None:
        self.desk = desk or FakeDesk(
            values, rate_limited=rate_limited, unavailable=unavailable, needs_approval=needs_approval, person=person
        )
        super().__init__(
            client=lambda: FakeAsyncSecretBroker(
                desk=self.desk, agent_id=agent_id, timeout=timeout, on_notice=on_notice
            )
        )
