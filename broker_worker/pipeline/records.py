"""What the audit is told of each outcome."""

from agent_sdk.wire.audit import AuditRecord, format_time
from agent_sdk.wire.errors import Code
from broker_worker.pipeline.batch import Ask, Case


def access(ask: Ask, case: Case, secret_name: str, now: int, now_us: int, policy: str) -> AuditRecord:
    """One name of a verified request.

    Args:
        ask: the request.
        case: the name, with its outcome.
        secret_name: the name as it may be recorded.
        now: the time, ms since the epoch.
        now_us: the same on the monotonic clock, microseconds.
        policy: digest of the policy in force.
    """
    identity, origin = ask.identity, case.decision.origin
    return AuditRecord(
        v=1,
        event="access",
        timestamp=format_time(now),
        agent_id=identity.agent_id,
        run_id=identity.run_id,
        secret_name=secret_name,
        outcome="granted" if case.code is None else "refused",
        source=case.source if case.code is None else None,
        code=case.code,
        reason=case.reason,
        action=ask.action,
        purpose=ask.purpose or None,
        rule=None if origin is None else str(origin),
        policy=policy,
        provider=case.provider,
        version=case.version,
        expires_at=None if case.expires_at is None else format_time(case.expires_at),
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=ask.peer.fingerprint,
        token_id=identity.token_id,
        issuer=identity.issuer,
        task=identity.task,
        latency_us=max(0, now_us - ask.entry.received_us),
    )


def whole_request(ask: Ask, now: int, now_us: int, policy: str) -> AuditRecord:
    """A verified request that was refused as a whole, or that has no names, such as `list`."""
    identity = ask.identity
    return AuditRecord(
        v=1,
        event="access" if ask.code is None else "request_refused",
        timestamp=format_time(now),
        agent_id=identity.agent_id,
        run_id=identity.run_id,
        outcome="granted" if ask.code is None else "refused",
        code=ask.code,
        reason=ask.reason,
        action=ask.action,
        secret_name=ask.cases[0].name if len(ask.cases) == 1 and ask.cases[0].entry else None,
        purpose=ask.purpose or None,
        policy=policy,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=ask.peer.fingerprint,
        token_id=identity.token_id,
        issuer=identity.issuer,
        task=identity.task,
        latency_us=max(0, now_us - ask.entry.received_us),
    )


def unauthenticated(agent_id: str, reason: str, now: int, count: int = 1) -> AuditRecord:
    """Messages on an agent's stream that nobody can be held to."""
    return AuditRecord(
        v=1,
        event="unauthenticated",
        timestamp=format_time(now),
        agent_id=agent_id,
        outcome="refused",
        code=Code.UNAUTHENTICATED,
        reason=reason,
        count=count,
    )


def queue_distrusted(ask: Ask, reason: str, now: int) -> AuditRecord:
    """The queue admitted what this worker knows to be a replay or over a limit."""
    return AuditRecord(
        v=1,
        event="queue_distrusted",
        timestamp=format_time(now),
        agent_id=ask.identity.agent_id,
        run_id=ask.identity.run_id,
        reason=reason,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
    )
