"""What an approval request says, in words for whoever decides: plainly, and all that is signed."""

from datetime import UTC, datetime, timedelta
from typing import Final

from broker_worker.core.approvals import ApprovalRequest
from broker_worker.people.inbox import Item

GRANTS: Final = {"once": "one use", "run": "every use until the run ends"}
"""What an approval is good for; anything else is a number of seconds."""


def grant_text(grant: str) -> str:
    """What an approval is good for."""
    return GRANTS.get(grant) or f"every use within {timedelta(seconds=int(grant[:-1]))}"


def moment(milliseconds: int) -> str:
    """A time, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def describe(item: Item, now: int) -> tuple[tuple[str, str], ...]:
    """Label and text of everything that a decision is about, in the order in which people should read it.

    Args:
        item: the request. What it says of purpose and task are the agent's words: they must be escaped where shown.
        now: the time, ms since the epoch.
    """
    request = item.request
    lines = [
        ("what", ", ".join(request.names)),
        ("who", request.agent_id),
        ("run", request.run_id),
        ("task", request.task or "the run's token names none"),
        ("why", request.purpose or "the agent gives no reason"),
        ("to do", _to_do(request)),
        ("good for", grant_text(request.grant)),
        ("today", _asked(request)),
        ("rule", f"{request.rule}, policy {request.policy[:16]}"),
        ("asked", moment(request.asked_at)),
        ("until", moment(request.expires_at) + _remaining(item, now)),
        ("needs", f"{request.quorum} of {', '.join(request.approvers)}"),
        ("state", item.state if not item.missing else f"{item.state} for {item.missing}"),
    ]
    for name, decision in item.matter.decisions.items():
        said = "approves" if decision.verdict == "approve" else "denies"
        lines.append(
            (name, f"{said}, {moment(decision.decided_at)}" + (f": {decision.reason}" * bool(decision.reason)))
        )
    return tuple(lines)


_ACTIONS: Final = {
    "put": "store a value under the name",
    "generate": "have a value made and stored under the name",
}


_WAYS: Final = {
    "value": "read the value",
    "env": "have the value in the environment of a program that it starts",
    "file": "have the value in a file for a program that it starts",
    "env,file": "have the value in the environment and in a file of a program that it starts",
    "proxy": "use the value through a proxy, without having it",
}


def _to_do(request: ApprovalRequest) -> str:
    if request.action == "resolve":
        return _WAYS[request.deliver] + (f"; {request.actor} asks for it" if request.actor else "")
    return _ACTIONS[request.action] + (f": {request.writes}" if request.writes else "")


def _asked(request: ApprovalRequest) -> str:
    if not request.asked_today:
        return "the agent's first approval in 24 hours"
    often = "once" if request.asked_today == 1 else f"{request.asked_today} times"
    return f"the agent asked {often} before in 24 hours"


def _remaining(item: Item, now: int) -> str:
    if item.state != "waiting":
        return ""
    return f", in {timedelta(seconds=max(0, item.request.expires_at - now) // 1000)}"
