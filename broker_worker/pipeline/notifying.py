"""What people who are notified of a request for approval are told."""

from broker_worker.core.approvals import ApprovalRequest


def notification(request: ApprovalRequest, origin: str) -> dict[str, object]:
    """The payload of the job `notify_approval`.

    Args:
        request: what people are asked.
        origin: where the dashboard is visited.
    """
    return {
        "approval_id": request.approval_id,
        "agent_id": request.agent_id,
        "run_id": request.run_id,
        "names": list(request.names),
        "purpose": request.purpose,
        "task": request.task or "",
        "approvers": list(request.approvers),
        "expires_at": request.expires_at,
        "asked_today": request.asked_today,
        "link": f"{origin}/approvals/{request.approval_id}",
    }
