"""What people were asked and what they answered, as one worker knows it; every question about it is a pure function.

The book is filled from two streams that nobody trusts: requests count only with the broker's signature, decisions only
with an approver's. A queue that forgets costs people another question, never a release.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from broker_worker.core.approvals import ApprovalRequest, Decision
from broker_worker.core.approvers import Approvers, Key, WebAuthnCheck
from broker_worker.core.revocations import Revocations

State = Literal["waiting", "approved", "denied", "expired", "void"]
SKEW_MS = 60_000
"""How far an approver's clock may be ahead, ms."""
DAY_MS = 24 * 3600 * 1000
KEPT_MS = 24 * 3600 * 1000
"""How long a settled request is kept after its end, ms: what was denied or expired is answered so until then."""


class ApprovalKey(NamedTuple):
    """What an approval is for. Whatever differs in one of these needs another approval."""

    agent_id: str
    run_id: str
    run_key: bytes
    names: tuple[str, ...]
    action: str
    purpose: str
    policy: str
    rule: str
    approvers: tuple[str, ...]
    quorum: int
    grant: str
    content: bytes | None = None
    deliver: str = "value"
    actor: str = ""


def is_refused(request: ApprovalRequest, revocations: Revocations) -> bool:
    """Whether who asked is refused by now, or one of the secrets: people need not decide that any more."""
    asking = [(request.agent_id, request.run_id), *([(request.actor, "")] if request.actor else [])]
    return not revocations.is_empty and (
        any(revocations.of_run(agent_id, run_id, "") for agent_id, run_id in asking)
        or any(revocations.of_secret(name) for name in request.names)
    )


def key_of(request: ApprovalRequest) -> ApprovalKey:
    """What a request, once approved, is good for."""
    return ApprovalKey(
        request.agent_id,
        request.run_id,
        request.run_key,
        request.names,
        request.action,
        request.purpose,
        request.policy,
        request.rule,
        request.approvers,
        request.quorum,
        request.grant,
        request.content,
        request.deliver,
        request.actor,
    )


@dataclass(slots=True)
class Matter:
    """One request with the decisions that count.

    Args:
        request: what was asked.
        decisions: the valid ones, one a person, in order of arrival.
        keys: with which key each person decided.
        final: what was told and recorded of it for good: it is not revived, also not by the policy of before.
        is_shown: whether it stands on the queue, where people and other workers see it.
    """

    request: ApprovalRequest
    decisions: dict[str, Decision] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    final: State | None = None
    is_shown: bool = False

    def state(self, approvers: Approvers, policy: str, now: int) -> State:
        """What has come of it.

        A decision counts as long as its approver may decide and still has the key that made it; one denial is enough.
        An approval ends with its grant.

        Args:
            approvers: who may decide now.
            policy: digest of the policy in force.
            now: the time, ms since the epoch.
        """
        request = self.request
        if self.final is not None:
            return self.final
        if request.policy != policy:
            return "void"
        counting = self.counting(approvers)
        if any(decision.verdict == "deny" for decision in counting):
            return "denied"
        if len(counting) >= request.quorum:
            if request.grant == "run":
                return "approved"
            ends = self._granted_until(counting) if request.grant_ms is not None else request.expires_at
            return "approved" if now < ends else "expired"
        return "waiting" if now < request.expires_at else "expired"

    @property
    def ends_at(self) -> int | None:
        """When an approval for a time ends, ms since the epoch; None for other grants, and before it is approved."""
        approvals = [decision for decision in self.decisions.values() if decision.verdict == "approve"]
        if self.request.grant_ms is None or len(approvals) < self.request.quorum:
            return None
        return self._granted_until(approvals)

    def _granted_until(self, approvals: Sequence[Decision]) -> int:
        # Nobody decides before it is asked: an approver's clock that is behind must not shorten the grant.
        approved_at = sorted(max(decision.decided_at, self.request.asked_at) for decision in approvals)
        return approved_at[self.request.quorum - 1] + (self.request.grant_ms or 0)

    def counting(self, approvers: Approvers) -> tuple[Decision, ...]:
        """The decisions of people who may decide now, with the keys that they have now."""
        wanted = self.request.approvers
        return tuple(
            decision
            for name, decision in self.decisions.items()
            if (person := approvers.people.get(name)) and person.is_one_of(wanted) and self.keys[name] in person.keys
        )

    def names_of(self, verdict: str) -> str:
        """Who decided so, for the audit."""
        return ",".join(name for name, decision in self.decisions.items() if decision.verdict == verdict)


class ApprovalBook:
    """All requests that are not over for long.

    Args:
        check: verifies WebAuthn assertions.
        limit: how many requests are kept at most; the oldest go first.
    """

    def __init__(self, check: WebAuthnCheck, limit: int = 10_000) -> None:
        self._check = check
        self._limit = limit
        self._matters: dict[bytes, Matter] = {}
        self._by_key: dict[ApprovalKey, list[Matter]] = {}
        self.changes = 0
        """How many decisions counted: whoever relied on one and waited can see whether it may be another now."""

    def __iter__(self) -> Iterator[Matter]:
        return iter(self._matters.values())

    def add(self, request: ApprovalRequest) -> Matter:
        """Note a request that the broker signed; one that is known already stays as it is."""
        digest = request.digest()
        known = self._matters.get(digest)
        if known is not None:
            return known
        while len(self._matters) >= self._limit:
            self._forget(next(iter(self._matters)))
        matter = self._matters[digest] = Matter(request)
        self._by_key.setdefault(key_of(request), []).append(matter)
        return matter

    def withdraw(self, request: ApprovalRequest) -> None:
        """Forget a request, as if it had never been asked."""
        digest = request.digest()
        if digest in self._matters:
            self._forget(digest)

    def get(self, digest: bytes) -> Matter | None:
        """The matter of a request's digest."""
        return self._matters.get(digest)

    def decide(self, decision: Decision, approvers: Approvers, now: int) -> str | None:
        """Note a decision.

        Args:
            decision: as read from the queue.
            approvers: who may decide now.
            now: when it came, ms since the epoch.

        Returns:
            Why it does not count, as a slug; None if it does. A person's second decision on the same request does
            not (`decided_already`), unless it denies what the person approved.
        """
        found = self._judge(decision, approvers, now)
        if isinstance(found, str):
            return found
        matter, key = found
        self.changes += 1
        matter.decisions[decision.approver] = decision
        matter.keys[decision.approver] = key
        return None

    def fault_of(self, decision: Decision, approvers: Approvers, now: int) -> str | None:
        """Why a decision would not count; nothing is noted. See `decide`."""
        found = self._judge(decision, approvers, now)
        return found if isinstance(found, str) else None

    def _judge(self, decision: Decision, approvers: Approvers, now: int) -> tuple[Matter, Key] | str:
        matter = self._matters.get(decision.request)
        if matter is None:
            return "unknown_request"
        key = approvers.key_behind(decision, matter.request, self._check)
        if isinstance(key, str):
            return key
        if decision.decided_at >= matter.request.expires_at:
            return "too_late"
        if decision.decided_at > now + SKEW_MS:
            return "from_the_future"
        known = next((each for each in matter.counting(approvers) if each.approver == decision.approver), None)
        if known is not None and (known.verdict == "deny" or decision.verdict == "approve"):
            return "decided_already"
        return matter, key

    def matter_for(self, key: ApprovalKey, approvers: Approvers, now: int, used: frozenset[str]) -> Matter | None:
        """The newest request for exactly this that still has something to say: approved first, waiting, then refused.

        Args:
            key: what is asked.
            approvers: who may decide now.
            now: the time, ms since the epoch.
            used: ids of single-use approvals that were used.
        """
        best: Matter | None = None
        order = {"approved": 0, "waiting": 1, "denied": 2, "expired": 3}
        for matter in reversed(self._by_key.get(key, ())):
            state = matter.state(approvers, key.policy, now)
            if state == "void" or (matter.request.grant == "once" and matter.request.approval_id in used):
                continue
            if best is None or order[state] < order[best.state(approvers, key.policy, now)]:
                best = matter
        return best

    def waiting_of_run(self, agent_id: str, run_id: str, approvers: Approvers, policy: str, now: int) -> list[Matter]:
        """The requests of a run that wait for a decision."""
        return [
            matter
            for matter in self._matters.values()
            if matter.request.agent_id == agent_id
            and matter.request.run_id == run_id
            and matter.state(approvers, policy, now) == "waiting"
        ]

    def asked_today(self, agent_id: str, now: int) -> int:
        """How often an agent asked in the last 24 hours."""
        return sum(
            matter.request.agent_id == agent_id and matter.request.asked_at > now - DAY_MS
            for matter in self._matters.values()
        )

    def purge(self, now: int) -> None:
        """Forget requests whose end lies a day back; those approved for a run are kept as long as there is room."""
        for digest, matter in list(self._matters.items()):
            request = matter.request
            ends = request.expires_at + (request.grant_ms or 0)
            if now >= ends + KEPT_MS and not (request.grant == "run" and matter.names_of("approve")):
                self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        matter = self._matters.pop(digest)
        key = key_of(matter.request)
        self._by_key[key].remove(matter)
        if not self._by_key[key]:
            del self._by_key[key]
