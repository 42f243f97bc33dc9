"""Test your agent without a broker: the real clients, over an in-memory desk that you script.

    from agent_sdk.testing import FakeSecretBroker

    with FakeSecretBroker({"openai.api_key": "sk-test"}, rate_limited={"github.token": 2.0}) as broker:
        run_my_agent(broker)
        assert broker.desk.requests[0].purpose == "summarise the ticket"

Names that the desk does not know are denied, as everywhere. Sealing, checking, waiting and expiry are the production
code; only the queue, the broker and the people behind it are replaced.
"""

from agent_sdk.testing.clients import FakeAsyncSecretBroker, FakeSecretBroker
from agent_sdk.testing.desk import FakeDesk, RecordedRequest
from agent_sdk.testing.leases import FakeLease
from agent_sdk.testing.people import FakeApproval

__all__ = [
    "FakeApproval",
    "FakeAsyncSecretBroker",
    "FakeDesk",
    "FakeLease",
    "FakeSecretBroker",
    "RecordedRequest",
]
