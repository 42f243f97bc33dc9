"""`approval:` of a policy entry: which people must allow what it grants, how soon, and what for."""

from broker_worker.core.policy import ApprovalRule
from broker_worker.files.approvers import check_person_name
from broker_worker.files.quantities import parse_duration
from broker_worker.files.sections import Value

_MAX_APPROVERS = 64
_LONGEST_SECONDS = 24 * 3600


def read_approval_rule(value: Value) -> ApprovalRule:
    """Read the `approval` of an entry.

    Raises:
        ConfigError: with file and line.
    """
    section = value.section("approvers", "quorum", "ttl", "grant", hint="write `approval: {approvers: [ops]}`")
    listed = section.require("approvers", why="name the groups or people who may decide: `approvers: [ops]`")
    approvers: list[str] = []
    for item in listed.items(hint="write `approvers: [ops]`"):
        name = item.name(check_person_name)
        if name in approvers:
            raise item.error(f"`{name}` stands twice", "keep one of the two")
        approvers.append(name)
    if not 0 < len(approvers) <= _MAX_APPROVERS:
        found = "the list is empty, so nobody could ever decide" if not approvers else "the list is too long"
        raise listed.error(found, f"name 1 to {_MAX_APPROVERS} groups or people of approvers.yaml")
    default, quorum, ttl, grant = ApprovalRule(()), section.get("quorum"), section.get("ttl"), section.get("grant")
    return ApprovalRule(
        approvers=tuple(approvers),
        quorum=default.quorum if quorum is None else quorum.integer(1, _MAX_APPROVERS),
        ttl_ms=default.ttl_ms if ttl is None else ttl.parsed(_waiting_time) * 1000,
        grant=default.grant if grant is None else grant.parsed(_grant_time),
    )


def _waiting_time(text: str) -> int:
    seconds = parse_duration(text)
    if not 60 <= seconds <= _LONGEST_SECONDS:
        raise ValueError("expected a duration from 1m to 24h: people need time, and must not decide on what is stale")
    return seconds


def _grant_time(text: str) -> str:
    if text in {"once", "run"}:
        return text
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError("expected `once`, `run`, or a duration up to 24h such as 15m")
    return f"{seconds}s"
