"""What would happen if an agent asked, and by which line: for operators, who may know why."""

from dataclasses import dataclass

from agent_sdk.wire.messages import Delivery
from broker_worker.core.configuration import Configuration, SecretEntry
from broker_worker.core.limits import Rate
from broker_worker.core.policy import AgentPolicy, ApprovalRule, Decision, Verb, decide


@dataclass(frozen=True, slots=True)
class AppliedLimit:
    """A limit that a request for the name counts against; `scope` is `agent`, `run`, `secret` or `grant`."""

    scope: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to "what if".

    Args:
        allowed: whether the name would be released, limits, vault and approvers permitting.
        reason: the slug that the audit would record.
        decision: what the policy says by itself.
        entry: the registry's entry, if there is one.
        ttl_seconds: how long the value could be used at most; None if it is not released or the registry is unknown.
        limits: what the request counts against. A refused name counts against the agent and the run as well.
    """

    allowed: bool
    reason: str
    decision: Decision
    entry: SecretEntry | None
    ttl_seconds: int | None
    limits: tuple[AppliedLimit, ...]

    @property
    def approval(self) -> ApprovalRule | None:
        """Who must allow it first, if it is allowed at all."""
        return self.decision.grant.approval if self.allowed and self.decision.grant is not None else None

    @property
    def verdict(self) -> str:
        """`allow`, `approval` (allowed once people allow it) or `deny`."""
        if not self.allowed:
            return "deny"
        return "allow" if self.approval is None else "approval"


def explain(
    configuration: Configuration,
    agent_id: str,
    run_id: str,
    name: str,
    *,
    purpose: str,
    now: int,
    verb: Verb = "resolve",
    replaces: bool = False,
    way: Delivery = "value",
) -> Explanation:
    """Decide as the broker would for a verified run whose token has no scope of its own.

    Args:
        configuration: the files. Of a policy by itself, every granted name counts as known.
        agent_id: the agent.
        run_id: the run.
        name: a canonical secret name.
        purpose: what the agent would say that it is for.
        now: the time, ms since the epoch.
        verb: what it would do with the name.
        replaces: whether it would replace a version that is there.
        way: how a value that it reads would reach the work.
    """
    policy = configuration.policy
    asked = way if verb == "resolve" else None
    decision = decide(policy, agent_id, run_id, name, purpose=purpose, now=now, verb=verb, replaces=replaces, way=asked)
    entry = configuration.entry_of(name)
    is_known = entry is not None or configuration.policy_only
    allowed = decision.allowed and is_known
    return Explanation(
        allowed=allowed,
        reason="unknown_secret" if decision.allowed and not is_known else decision.reason,
        decision=decision,
        entry=entry,
        ttl_seconds=_ttl(configuration, entry, decision) if allowed else None,
        limits=_limits(configuration, policy.agents.get(agent_id), name, decision if allowed else None),
    )


def _ttl(configuration: Configuration, entry: SecretEntry | None, decision: Decision) -> int | None:
    of_grant = decision.grant.max_ttl if decision.grant is not None else None
    if entry is None:
        return of_grant
    return min(ttl for ttl in (configuration.ttl_of(entry), of_grant) if ttl is not None)


def _limits(
    configuration: Configuration, agent: AgentPolicy | None, name: str, granted: Decision | None
) -> tuple[AppliedLimit, ...]:
    of_secret = configuration.policy.limit_of_secret(name) if granted is not None else None
    of_grant = granted.grant.rate if granted is not None and granted.grant is not None else None
    found = (
        ("agent", agent.limit if agent is not None else None),
        ("run", agent.run_limit if agent is not None else None),
        ("secret", of_secret),
        ("grant", of_grant),
    )
    return tuple(AppliedLimit(scope, rate) for scope, rate in found if rate is not None)
