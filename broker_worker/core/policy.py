"""The policy: who may have what, under which conditions. Default deny, and an explicit deny wins.

`decide` is the only place where a grant is found. It sees the verified identity, the name, the purpose and the
time, and nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar, get_args

from agent_sdk.wire.messages import Delivery, Way
from agent_sdk.wire.names import NamePattern
from broker_worker.core.limits import Rate

Verb = Literal["resolve", "write", "generate"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
"""What an entry can allow to be done with a name: to have its value, to store one, to have one made and stored."""
VERB_OF: Final[Mapping[str, Verb]] = {"resolve": "resolve", "renew": "resolve", "put": "write", "generate": "generate"}
"""The verb that an operation on the wire needs."""
WAYS: Final[tuple[Way, ...]] = get_args(Way)
"""How a value can reach the work."""
DELIVERIES: Final[tuple[Delivery, ...]] = get_args(Delivery)
"""What a request can ask for with one name: a way, or two at once."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a statement stands: shown as `policy.yaml:12`."""

    file: str
    line: int
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", f"{self.file}:{self.line}")  # every line of the audit says it

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """That people must allow what a policy entry grants.

    Args:
        approvers: groups and names of people in `approvers.yaml` who may decide.
        quorum: how many of them must approve.
        ttl_ms: for how long they may be waited for, ms.
        grant: what an approval is good for: `once`, `run`, or seconds as `900s`.
    """

    approvers: tuple[str, ...]
    quorum: int = 1
    ttl_ms: int = 600_000
    grant: str = "once"


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of an allow list.

    Args:
        pattern: the secret name, or a pattern where the file says `pattern:`.
        origin: where it stands.
        role: the role that it comes from, if it does.
        max_ttl: the longest life of a value handed out, seconds; None for what the registry says.
        rate: a limit of its own for this agent and secret.
        purpose_required: whether a request must say what for.
        runs: patterns of run ids (`*` for any characters) that the entry is limited to; None for all.
        not_after: the entry's own end, ms since the epoch; None for no end.
        approval: who must allow it each time; None if nobody need.
        actions: what may be done with the name; no action implies another.
        overwrite: whether a write may replace a version that is there.
        deliver: how a value that is read may reach the work.
    """

    pattern: NamePattern
    origin: Origin
    role: str | None = None
    max_ttl: int | None = None
    rate: Rate | None = None
    purpose_required: bool = False
    runs: tuple[str, ...] | None = None
    not_after: int | None = None
    approval: ApprovalRule | None = None
    actions: tuple[Verb, ...] = ("resolve",)
    overwrite: bool = False
    deliver: tuple[Way, ...] = WAYS

    def delivers_both(self, way: Delivery) -> bool:
        """Whether two ways are asked for, and a value that is read may go both."""
        return way == "env,file" and "env" in self.deliver and "file" in self.deliver

    def unmet(self, run_id: str, purpose: str, now: int, *, replaces: bool = False) -> str | None:
        """The first condition that does not hold, as a reason slug; None if all do."""
        if self.runs is not None and not any(_run_matches(pattern, run_id) for pattern in self.runs):
            return "run_not_covered"
        if self.not_after is not None and now > self.not_after:
            return "grant_ended"
        if self.purpose_required and not purpose.strip():
            return "purpose_required"
        if replaces and not self.overwrite:
            return "overwrite_not_granted"
        return None


def _run_matches(pattern: str, run_id: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == run_id
    return len(run_id) >= len(head) + len(tail) and run_id.startswith(head) and run_id.endswith(tail)


@dataclass(frozen=True, slots=True)
class Denial:
    """One entry of a deny list: it wins over every grant."""

    pattern: NamePattern
    origin: Origin


@dataclass(frozen=True, slots=True)
class Role:
    """A named pair of lists that agents take; `AgentPolicy` already holds what it says.

    Args:
        name: what agents call it.
        origin: where it stands.
        grants: its allow entries.
        denials: its deny entries.
    """

    name: str
    origin: Origin
    grants: tuple[Grant, ...] = ()
    denials: tuple[Denial, ...] = ()


@dataclass(frozen=True, slots=True)
class ActsFor:
    """That an agent, such as a proxy, may ask on behalf of others' runs, by what these show of themselves.

    Args:
        agents: whose runs; None for those of every agent.
        deliver: how what it gets for them may reach them.
        audience: what proofs that are shown to it must be made out to (`aud`); None if it takes none.
    """

    agents: frozenset[str] | None
    deliver: tuple[Way, ...]
    audience: str | None = None

    def covers(self, agent_id: str, way: Delivery) -> bool:
        """Whether it may ask for an agent's run, for a value that reaches it in this way."""
        return way in self.deliver and (self.agents is None or agent_id in self.agents)


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """What one agent may do.

    Args:
        agent_id: the agent.
        origin: where its section begins.
        grants: its allow entries, its own first, then those of its roles, in the order in which they are written.
        denials: its deny entries, then those of its roles, then those that hold for everybody.
        limit: the limit for all its runs together.
        run_limit: the limit for each of its runs.
        roles: the roles that it takes.
        acts_for: on whose behalf it may ask; None for nobody's but its own.
        proof_required: whether others may ask for its runs only with a proof that they hold their key.
    """

    agent_id: str
    origin: Origin
    grants: tuple[Grant, ...] = ()
    denials: tuple[Denial, ...] = ()
    limit: Rate | None = None
    run_limit: Rate | None = None
    roles: tuple[str, ...] = ()
    acts_for: ActsFor | None = None
    proof_required: bool = False
    _granted: "_Index[Grant]" = field(init=False, repr=False, compare=False)
    _denied: "_Index[Denial]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_granted", _Index(self.grants))
        object.__setattr__(self, "_denied", _Index(self.denials))

    def grants_for(self, name: str) -> Iterable[Grant]:
        """The grants that cover `name`: those that spell it first, then patterns, each in order."""
        return self._granted.covering(name)

    def denial_of(self, name: str) -> Denial | None:
        """A deny entry that covers `name`: the first that spells it, else the first pattern."""
        covering = self._denied.covering(name)
        return covering[0] if covering else None


_Entry = TypeVar("_Entry", bound=Grant | Denial)


class _Index(Generic[_Entry]):
    """Entries by the name that they spell, so that a decision costs the same however many there are."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, entries: Iterable[_Entry]) -> None:
        exact: dict[str, tuple[_Entry, ...]] = {}
        patterns: list[_Entry] = []
        for entry in entries:
            if entry.pattern.is_exact:
                exact[entry.pattern.text] = (*exact.get(entry.pattern.text, ()), entry)
            else:
                patterns.append(entry)
        self._exact = exact
        self._patterns = tuple(patterns)

    def covering(self, name: str) -> tuple[_Entry, ...]:
        exact = self._exact.get(name, ())
        if not self._patterns:
            return exact
        return (*exact, *(entry for entry in self._patterns if entry.pattern.matches(name)))


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole policy in force.

    Args:
        agents: per agent id; an agent that is not here gets nothing.
        secret_limits: limits of a secret for all agents together, by name.
        secret_limit: the limit of every secret that has none of its own.
        digest: SHA-256 of everything that decides, hexadecimal; it goes into every audit event.
        roles: the roles that the file defines, by name.
    """

    agents: Mapping[str, AgentPolicy]
    secret_limits: Mapping[str, Rate] = field(default_factory=dict)
    secret_limit: Rate | None = None
    digest: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)

    def limit_of_secret(self, name: str) -> Rate | None:
        """The limit for all agents together that `name` has."""
        return self.secret_limits.get(name, self.secret_limit)

    def may_be_written(self, name: str) -> bool:
        """Whether some agent may store or generate what has this name, in whichever run and with whoever's consent."""
        return any(
            agent.denial_of(name) is None
            and any(not {"write", "generate"}.isdisjoint(grant.actions) for grant in agent.grants_for(name))
            for agent in self.agents.values()
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of one name.

    Args:
        allowed: whether the name may be released.
        reason: a stable slug: `granted`, `no_grant`, `unknown_agent`, `denied_explicitly`, `out_of_scope`,
            `action_not_granted` (the name's entries allow other actions), `deliver_not_granted` (they allow that the
            value reaches the work in other ways), or the condition of the first grant for
            the name and the action that did not hold (`run_not_covered`, `grant_ended`, `purpose_required`,
            `overwrite_not_granted`).
        origin: the entry that decided, if one did.
        grant: the grant, if allowed.
    """

    allowed: bool
    reason: str
    origin: Origin | None = None
    grant: Grant | None = None


_UNKNOWN_AGENT = Decision(False, "unknown_agent")


def decide(
    policy: Policy,
    agent_id: str,
    run_id: str,
    name: str,
    *,
    purpose: str,
    now: int,
    in_scope: bool = True,
    verb: Verb = "resolve",
    replaces: bool = False,
    way: Delivery | None = None,
) -> Decision:
    """Decide one name of one verified request.

    Args:
        policy: the policy in force.
        agent_id: from the verified token.
        run_id: from the verified token.
        name: a canonical secret name.
        purpose: what the agent says that it is for.
        now: the time, ms since the epoch.
        in_scope: whether the token's own scope covers the name.
        verb: what is to be done with the name.
        replaces: whether a write is to replace a version that is there.
        way: how a value that is read is to reach the work, in both of two ways by one entry; None if that is not the
            question.

    Returns:
        The decision; `allowed` only if a grant covers the name and the verb, its conditions hold and no denial covers
        the name.
    """
    agent = policy.agents.get(agent_id)
    if agent is None:
        return _UNKNOWN_AGENT
    denial = agent.denial_of(name)
    if denial is not None:
        return Decision(False, "denied_explicitly", denial.origin)
    if not in_scope:
        return Decision(False, "out_of_scope", agent.origin)
    refused: Decision | None = None
    other: Decision | None = None
    for grant in agent.grants_for(name):
        if verb not in grant.actions:
            other = other or Decision(False, "action_not_granted", grant.origin)
            continue
        if way is not None and way not in grant.deliver and not grant.delivers_both(way):
            other = Decision(False, "deliver_not_granted", grant.origin)
            continue
        unmet = grant.unmet(run_id, purpose, now, replaces=replaces)
        if unmet is None:
            return Decision(True, "granted", grant.origin, grant)
        refused = refused or Decision(False, unmet, grant.origin)
    return refused or other or Decision(False, "no_grant", agent.origin)
