"""Reads the broker's audit from the queue: typed events, each proved to be the broker's, at least once.

    from agent_sdk.ledger import AuditReader

    with AuditReader(queue_url, identity_public_key, group="siem", state="siem.json") as reader:
        for batch in reader:
            for finding in batch.findings:
                alarm(finding.fault, finding.detail)
            for event in batch.events:
                forward(event.event_id, event.timestamp, event.agent_id, event.secret_name, event.outcome)

Asking for the next batch acknowledges the one before, so a consumer that raises or dies gets its batch again, and what
it has finished it does not. Whoever keeps a database stores `batch.positions` there, in the same transaction as what it
made of the events, and passes them instead of `state`: then every event counts exactly once.
"""

from agent_sdk.ledger.assembly import ChainAssembler, ChainFinding, ChainPosition, VerifiedLine
from agent_sdk.ledger.reader import AuditBatch, AuditNotReadable, AuditReader
from agent_sdk.wire.audit import AuditEvent
from agent_sdk.wire.audit_chain import Fault

__all__ = [
    "AuditBatch",
    "AuditEvent",
    "AuditNotReadable",
    "AuditReader",
    "ChainAssembler",
    "ChainFinding",
    "ChainPosition",
    "Fault",
    "VerifiedLine",
]
