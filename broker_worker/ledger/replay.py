"""Replays recorded decisions against another policy: what would newly be refused, allowed, or ask a person."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from agent_sdk.wire.audit import AuditEvent, parse_time
from agent_sdk.wire.names import is_secret_name
from broker_worker.core.configuration import Configuration
from broker_worker.core.policy import VERB_OF, Grant, decide

Change = Literal["refused", "allowed", "asks"]

_POLICY_SAID_NO: Final = frozenset(
    {
        *("no_grant", "unknown_agent", "denied_explicitly", "out_of_scope", "run_not_covered", "grant_ended"),
        *("purpose_required", "unknown_secret", "action_not_granted", "overwrite_not_granted"),
        "deliver_not_granted",
    }
)
_SERVED = frozenset({"resolve", "put", "generate"})


@dataclass(slots=True)
class Difference:
    """What one agent and one secret would newly meet.

    Args:
        change: `refused`, `allowed`, or `asks` where a person would have to approve now.
        agent_id: the agent.
        secret_name: the secret.
        reason: what the candidate says: `granted`, or the slug of its refusal.
        rule: the candidate's entry that decides, `file:line`; empty if none does.
        count: how many recorded decisions would differ so.
        runs: how many runs they belong to.
        first_at: the first of them, ms since the epoch.
        last_at: the last of them.
    """

    change: Change
    agent_id: str
    secret_name: str
    reason: str
    rule: str
    count: int
    runs: int
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class UnusedGrant:
    """An entry of the candidate that decided nothing that was asked in the time."""

    agent_id: str
    pattern: str
    rule: str
    role: str | None


@dataclass(slots=True)
class Replay:
    """What a replay found.

    Args:
        decisions: how many recorded decisions were replayed.
        skipped: how many could not be: their name was not a canonical one.
        differences: what would differ, most often first.
        unused: entries that nothing used.
    """

    decisions: int = 0
    skipped: int = 0
    differences: list[Difference] = field(default_factory=list)
    unused: list[UnusedGrant] = field(default_factory=list)

    def of(self, change: Change) -> Sequence[Difference]:
        """The differences of one kind."""
        return [difference for difference in self.differences if difference.change == change]


def replay(events: Iterable[AuditEvent], candidate: Configuration) -> Replay:
    """Decide everything that was recorded once more, as it was asked then.

    Limits and vaults are not replayed: a name that was refused for a rate counts as one that the policy allowed. A
    token's own scope, and that a version was to be replaced, is only known where it was the reason for a refusal.

    Args:
        events: recorded events; those that are no decisions about a name are passed over.
        candidate: the other policy; without a registry every granted name counts as known.
    """
    result = Replay()
    found: dict[tuple[str, ...], Difference] = {}
    runs: dict[tuple[str, ...], set[str]] = {}
    used: set[tuple[str, str, str]] = set()
    for event in events:
        if event.event != "access" or event.action not in _SERVED or event.secret_name is None:
            continue
        if event.agent_id is None or event.run_id is None or not is_secret_name(event.secret_name):
            result.skipped += 1
            continue
        result.decisions += 1
        at, change, reason, rule, grant = _decide_again(event, candidate)
        if grant is not None:
            used.add(_place(event.agent_id, grant))
        if change is None:
            continue
        key: tuple[str, ...] = (change, event.agent_id, event.secret_name, reason, rule)
        runs.setdefault(key, set()).add(event.run_id)
        difference = found.setdefault(
            key, Difference(change, event.agent_id, event.secret_name, reason, rule, 0, 0, at, at)
        )
        difference.count += 1
        difference.first_at, difference.last_at = min(difference.first_at, at), max(difference.last_at, at)
    for key, difference in found.items():
        difference.runs = len(runs[key])
    result.differences = sorted(found.values(), key=lambda each: (-each.count, each.agent_id, each.secret_name))
    result.unused = [
        UnusedGrant(agent.agent_id, grant.pattern.text, str(grant.origin), grant.role)
        for agent in candidate.policy.agents.values()
        for grant in agent.grants
        if _place(agent.agent_id, grant) not in used
    ]
    return result


def _place(agent_id: str, grant: Grant) -> tuple[str, str, str]:
    return agent_id, grant.pattern.text, str(grant.origin)


def _decide_again(event: AuditEvent, candidate: Configuration) -> tuple[int, Change | None, str, str, Grant | None]:
    agent, run, name = event.agent_id or "", event.run_id or "", event.secret_name or ""
    at = parse_time(event.timestamp)
    in_scope = event.reason != "out_of_scope"
    decision = decide(
        candidate.policy,
        agent,
        run,
        name,
        purpose=event.purpose or "",
        now=at,
        in_scope=in_scope,
        verb=VERB_OF[event.action or "resolve"],
        replaces=event.reason == "overwrite_not_granted",
        way=event.deliver,
    )
    is_known = candidate.policy_only or candidate.entry_of(name) is not None
    allowed = decision.allowed and is_known
    reason = "unknown_secret" if decision.allowed and not is_known else decision.reason
    rule = "" if decision.origin is None else str(decision.origin)
    was_allowed = event.outcome == "granted" or event.reason not in _POLICY_SAID_NO
    asked_somebody = event.approval_id is not None or (event.code or "").startswith("approval_")
    change: Change | None = None
    if allowed != was_allowed:
        change = "allowed" if allowed else "refused"
    elif allowed and decision.grant is not None and decision.grant.approval is not None and not asked_somebody:
        change = "asks"
    return at, change, reason, rule, decision.grant if allowed else None
