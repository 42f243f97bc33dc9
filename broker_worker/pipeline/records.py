"""What the audit is told of each outcome."""

from typing import Literal

from agent_sdk.wire.audit import AuditRecord, EventType, format_time
from agent_sdk.wire.errors import Code
from agent_sdk.wire.keynames import fingerprint
from agent_sdk.wire.messages import Call
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.approval_book import Matter
from broker_worker.core.approvals import ApprovalRequest, Decision
from broker_worker.core.leases import Holding
from broker_worker.core.revocations import Revocation
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.ports import WriteNote


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
    identity, actor, origin = ask.identity, ask.actor, case.decision.origin
    code, approval, holding, expires_at = case.code, case.approval, case.holding, case.expires_at
    lease = None if holding is None or code is not None else holding.lease
    return AuditRecord(
        v=1,
        event="access",
        timestamp=format_time(now),
        agent_id=identity.agent_id,
        run_id=identity.run_id,
        secret_name=secret_name,
        outcome="granted" if code is None else "refused",
        source=case.source if code is None else None,
        age_s=case.age_s if code is None else None,
        code=code,
        reason=case.reason,
        action=ask.action,
        deliver=case.way,
        actor=None if actor is None else _label(actor),
        purpose=ask.purpose or None,
        rule=None if origin is None else str(origin),
        policy=policy,
        provider=case.provider,
        version=case.version,
        expires_at=None if expires_at is None else format_time(expires_at),
        lease_id=None if lease is None else lease.lease_id,
        lease_ends=None if lease is None else format_time(lease.ends_at),
        uses=None if holding is None or lease is None or ask.action != "resolve" else holding.uses,
        approval_id=None if approval is None else approval.request.approval_id,
        approver=None if approval is None else approval.names_of("approve") or None,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=ask.peer.fingerprint if actor is None else _run_key(ask),
        token_id=identity.token_id,
        issuer=identity.issuer or None,
        task=identity.task,
        latency_us=max(0, now_us - ask.entry.received_us),
    )


def _run_key(ask: Ask) -> str:
    return ask.peer.fingerprint if ask.actor is None else fingerprint(ask.identity.run_public_key)


def _actor(ask: Ask) -> str | None:
    return None if ask.actor is None else _label(ask.actor)


def _label(actor: RunIdentity) -> str:
    return f"{actor.agent_id}/{actor.run_id}"


def sent_by(record: AuditRecord) -> str | None:
    """The agent on whose stream the request of a record came."""
    return record.agent_id if record.actor is None else record.actor.partition("/")[0]


def call(ask: Ask, made: Call, now: int, policy: str) -> AuditRecord:
    """A request that a proxy made with a secret on behalf of a run.

    Args:
        ask: the report.
        made: the call, as the proxy tells it; a time that cannot be true, before the token's issue or after the
            report, is recorded as the nearest that can.
        now: the time, ms since the epoch.
        policy: digest of the policy in force.
    """
    identity = ask.identity
    return AuditRecord(
        v=1,
        event="call",
        timestamp=format_time(min(max(made.at, identity.issued_at), now)),
        agent_id=identity.agent_id,
        run_id=identity.run_id,
        secret_name=made.name,
        outcome="granted" if made.fault is None else "refused",
        reason=made.fault,
        deliver="proxy",
        actor=_actor(ask),
        policy=policy,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=fingerprint(identity.run_public_key),
        token_id=identity.token_id,
        issuer=identity.issuer,
        task=identity.task,
        route=made.route,
        host=made.host,
        method=made.method,
        path=made.path,
        status=made.status,
        sent_bytes=made.sent,
        received_bytes=made.received,
        elapsed_ms=made.elapsed,
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
        deliver=ask.deliver,
        actor=_actor(ask),
        secret_name=ask.cases[0].name if len(ask.cases) == 1 and ask.cases[0].entry else None,
        purpose=ask.purpose or None,
        policy=policy,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=_run_key(ask),
        token_id=identity.token_id,
        issuer=identity.issuer or None,
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


def approval_requested(request: ApprovalRequest, now: int) -> AuditRecord:
    """People are asked."""
    return AuditRecord(
        v=1,
        event="approval_requested",
        timestamp=format_time(now),
        agent_id=request.agent_id,
        run_id=request.run_id,
        secret_name=",".join(request.names),
        action=request.action,
        deliver=request.deliver if request.action == "resolve" else None,
        actor=request.actor or None,
        purpose=request.purpose or None,
        rule=request.rule,
        policy=request.policy,
        expires_at=format_time(request.expires_at),
        approval_id=request.approval_id,
        approver=",".join(request.approvers),
        request_id=request.request_id.hex(),
        run_key=fingerprint(request.run_key),
        task=request.task,
    )


def approval_decided(request: ApprovalRequest, decision: Decision, reason: str, now: int) -> AuditRecord:
    """A person decided, validly."""
    return _of_approval(
        request,
        now,
        event="approval_decided",
        outcome="granted" if decision.verdict == "approve" else "refused",
        approver=decision.approver,
        reason=reason or None,
    )


def approval_settled(matter: Matter, state: str, now: int) -> AuditRecord:
    """What came of a request: `approved`, `denied`, `expired` or `void`."""
    approved = state == "approved"
    deciders = matter.names_of("approve" if approved else "deny") or None
    outcome: Literal["granted", "refused"] = "granted" if approved else "refused"
    return _of_approval(matter.request, now, event="approval_settled", outcome=outcome, approver=deciders, reason=state)


def decision_refused(
    request: ApprovalRequest | None, decision: Decision, approver: str, why: str, now: int
) -> AuditRecord:
    """A decision that does not count; who is said to have made it is only what it says."""
    if request is not None:
        return _of_approval(request, now, event="decision_refused", outcome="refused", approver=approver, reason=why)
    return AuditRecord(
        v=1,
        event="decision_refused",
        timestamp=format_time(now),
        outcome="refused",
        approval_id=decision.approval_id,
        approver=approver,
        reason=why,
    )


def refused_control(why: str, now: int) -> AuditRecord:
    """What stands on the control stream and is neither a decision nor an order that the control key signed."""
    return AuditRecord(
        v=1, event="decision_refused", timestamp=format_time(now), outcome="refused", reason=why, count=1
    )


def _of_approval(
    request: ApprovalRequest,
    now: int,
    *,
    event: EventType,
    outcome: Literal["granted", "refused"],
    approver: str | None,
    reason: str | None,
) -> AuditRecord:
    return AuditRecord(
        v=1,
        event=event,
        timestamp=format_time(now),
        agent_id=request.agent_id,
        run_id=request.run_id,
        secret_name=",".join(request.names),
        outcome=outcome,
        reason=reason,
        approval_id=request.approval_id,
        approver=approver,
    )


def revoked(revocation: Revocation, reason: str, now: int) -> AuditRecord:
    """From now on this worker refuses a subject, or serves it again."""
    return AuditRecord(
        v=1,
        event="revoked" if revocation.order == "revoke" else "reinstated",
        timestamp=format_time(now),
        subject=revocation.label,
        approver=revocation.by,
        reason=reason,
    )


def lease_ended(holding: Holding, revocation: Revocation, now: int) -> AuditRecord:
    """A lease ended before its time."""
    lease = holding.lease
    return AuditRecord(
        v=1,
        event="lease_ended",
        timestamp=format_time(now),
        agent_id=holding.agent_id,
        run_id=holding.run_id,
        secret_name=lease.name,
        version=lease.version,
        lease_id=lease.lease_id,
        reason="revoked",
        subject=revocation.label,
    )


def write_started(ask: Ask, case: Case, now: int, policy: str) -> AuditRecord:
    """A value is about to be stored: the vault is asked only after this is on disk."""
    identity, origin, approval = ask.identity, case.decision.origin, case.approval
    return AuditRecord(
        v=1,
        event="write_started",
        timestamp=format_time(now),
        agent_id=identity.agent_id,
        run_id=identity.run_id,
        secret_name=case.name,
        action=ask.action,
        rule=None if origin is None else str(origin),
        policy=policy,
        provider=case.provider,
        approval_id=None if approval is None else approval.request.approval_id,
        approver=None if approval is None else approval.names_of("approve") or None,
        request_id=ask.request.request_id.hex(),
        entry_id=ask.entry.entry_id.decode("ascii", "replace"),
        run_key=ask.peer.fingerprint,
        token_id=identity.token_id,
        issuer=identity.issuer,
        task=identity.task,
    )


def write_unsettled(note: WriteNote, now: int) -> AuditRecord:
    """A write began and nothing said what came of it."""
    return AuditRecord(
        v=1, event="write_unsettled", timestamp=format_time(now), secret_name=note.name, request_id=note.write_id
    )
