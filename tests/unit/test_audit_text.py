"""How people read one line of the audit."""

import pytest

from agent_sdk.wire.audit import AuditEvent
from agent_sdk.wire.messages import Source
from broker_worker.cli.audit_text import event_line


@pytest.mark.parametrize(
    ("source", "age", "said"),
    [
        ("provider", None, "granted from provider  "),
        ("cache", 12, "granted from cache  "),
        ("stale", 4000, "granted from cache, past its time  4000 s old  "),
    ],
)
def test_where_a_value_came_from(source: Source, age: int | None, said: str) -> None:
    """One that was past its time stands out, with its age."""
    event = AuditEvent(
        v=1,
        event="access",
        timestamp="2027-01-15T08:00:00.000Z",
        agent_id="claude",
        run_id="run-1",
        secret_name="openai.api_key",
        action="resolve",
        outcome="granted",
        source=source,
        age_s=age,
        rule="policy.yaml:4",
        event_id="0123456789abcdef-000000000000",
        worker="worker-1",
        chain="0123456789abcdef",
        sequence=0,
        prev="0" * 64,
    )
    assert f"openai.api_key  {said}rule policy.yaml:4" in event_line(event)
