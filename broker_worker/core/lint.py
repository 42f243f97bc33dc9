"""What a valid configuration says that its author can hardly have meant.

None of it widens what an agent gets; most of it means that somebody gets less than was intended.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent_sdk.wire.names import NamePattern
from broker_worker.core.approvers import WebAuthnKey
from broker_worker.core.configuration import Configuration
from broker_worker.core.policy import AgentPolicy, ApprovalRule, Denial, Grant, Origin
from broker_worker.core.references import READ_ONLY_SCHEMES, scheme_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning.

    Args:
        code: a stable slug.
        message: what was found.
        origin: where it stands; None if it is about something that is missing.
        hint: what to do about it.
    """

    code: str
    message: str
    origin: Origin | None
    hint: str


def lint(configuration: Configuration, now: int) -> tuple[Finding, ...]:
    """Look for statements without effect and for names that fit nothing.

    Args:
        configuration: a valid configuration. If it is a policy by itself, whatever needs the registry or the
            issuers is left out.
        now: the time, ms since the epoch.

    Returns:
        The findings in the order of the files' lines, each once.
    """
    linter = _Linter(configuration, now)
    findings = dict.fromkeys(linter.findings())
    return tuple(sorted(findings, key=lambda found: (found.origin is None, _place(found.origin), found.message)))


def _place(origin: Origin | None) -> tuple[str, int]:
    """A sort key: file, then line."""
    return ("", 0) if origin is None else (origin.file, origin.line)


def _meet(one: str, other: str) -> bool:
    """Whether two name patterns cover a name in common."""
    ours, theirs = one.split("."), other.split(".")
    for place in range(max(len(ours), len(theirs))):
        mine = ours[place] if place < len(ours) else ""
        yours = theirs[place] if place < len(theirs) else ""
        if "**" in (mine, yours):
            return bool(mine and yours)
        if not (mine and yours) or (mine != yours and "*" not in (mine, yours)):
            return False
    return True


def _serves(first: Grant, grant: Grant) -> bool:
    """Whether an entry without conditions allows everything that a later one does."""
    is_wider = set(grant.actions) <= set(first.actions) and set(grant.deliver) <= set(first.deliver)
    return is_wider and (first.overwrite or not grant.overwrite)


class _Linter:
    def __init__(self, configuration: Configuration, now: int) -> None:
        self._configuration = configuration
        self._policy = configuration.policy
        self._registry = configuration.registry
        self._whole = not configuration.policy_only
        self._now = now
        self._matches: dict[str, tuple[str, ...]] = {}
        self._released: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        self._used: set[str] = set()

    def findings(self) -> Iterator[Finding]:
        for agent in self._policy.agents.values():
            yield from self._agent(agent)
        yield from self._roles()
        if self._whole:
            yield from self._secrets()
            yield from self._issuers()
            yield from self._dashboard()
            yield from self._gateway()
            yield from self._tokens()

    def _agent(self, agent: AgentPolicy) -> Iterator[Finding]:
        effective = False
        denied = tuple(sorted({denial.pattern.text for denial in agent.denials}))
        for grant in agent.grants:
            problem = self._grant(agent, grant, denied)
            if problem is None:
                effective = True
            else:
                yield problem
            if self._whole and grant.approval is not None:
                yield from self._approval(grant, grant.approval)
            if self._whole and grant.actions != ("resolve",):
                yield from self._written(grant)
        yield from self._unreachable(agent)
        yield from self._delegation(agent)
        if self._whole:
            yield from (found for denial in agent.denials for found in self._denial(denial))
        if agent.grants and not effective:
            hint = "correct the warnings about its entries, or write `allow: []` if that is meant"
            yield Finding("agent_gets_nothing", f"agent `{agent.agent_id}` can get no secret", agent.origin, hint)

    def _grant(self, agent: AgentPolicy, grant: Grant, denied: tuple[str, ...]) -> Finding | None:
        name = grant.pattern.text
        if grant.not_after is not None and grant.not_after < self._now:
            return Finding("grant_ended", f"the entry for `{name}` has ended", grant.origin, "remove it, or extend it")
        denial = agent.denial_of(name) if grant.pattern.is_exact else None
        if denial is not None:
            message = f"the entry for `{name}` is denied to agent `{agent.agent_id}` by {denial.origin}"
            return Finding("grant_shadowed", message, grant.origin, "a deny always wins: remove one of the two")
        if not self._whole:
            return None
        if self._may_be_created(grant.pattern):
            self._used.update(self._covered(grant.pattern))
            return None
        if not self._covered(grant.pattern):
            return self._fits_nothing(grant)
        key = (name, denied)
        if key not in self._released:
            self._released[key] = tuple(n for n in self._covered(grant.pattern) if agent.denial_of(n) is None)
        self._used.update(self._released[key])
        if not self._released[key]:
            message = f"everything that `{name}` covers is denied to agent `{agent.agent_id}`"
            return Finding("grant_shadowed", message, grant.origin, "a deny always wins: remove one of the two")
        return None

    def _written(self, grant: Grant) -> Iterator[Finding]:
        """Writing to what cannot be written."""
        for name in self._covered(grant.pattern):
            scheme = scheme_of(self._registry[name].ref)
            if scheme in READ_ONLY_SCHEMES:
                message = f"the entry allows to write `{name}`, whose place is {scheme}:// and cannot be written"
                hint = "allow `resolve` alone, or give the name a place in another vault"
                yield Finding("not_writable", message, grant.origin, hint)

    def _may_be_created(self, pattern: NamePattern) -> bool:
        """Whether a pattern covers a name that `create_in` has a place for."""
        return any(_meet(pattern.text, rule.pattern.text) for rule in self._configuration.create_in)

    def _approval(self, grant: Grant, rule: ApprovalRule) -> Iterator[Finding]:
        """Approvals that nobody could ever give."""
        name, approvers = grant.pattern.text, self._configuration.approvers
        people = approvers.who_may(rule.approvers)
        hint = "`secret-broker approvers enrol NAME --group GROUP` adds people to approvers.yaml"
        for wanted in rule.approvers:
            if not approvers.who_may((wanted,)):
                message = f"`{wanted}`, who may approve `{name}`, is no person or group of approvers.yaml"
                yield Finding("unknown_approver", message, grant.origin, hint)
        if len(people) < rule.quorum:
            message = f"`{name}` needs {rule.quorum} to approve it, and only {len(people)} may"
            yield Finding("quorum_out_of_reach", message, grant.origin, hint)

    def _fits_nothing(self, entry: Grant | Denial) -> Finding:
        name = entry.pattern.text
        if entry.pattern.is_exact:
            message, hint = f"the registry has no secret `{name}`", "correct the name, or add it to the registry"
            return Finding("unknown_secret", message, entry.origin, hint)
        message = f"the pattern `{name}` matches no secret of the registry"
        hint = "`*` stands for one part between dots, a last `**` for one or more"
        return Finding("pattern_matches_nothing", message, entry.origin, hint)

    def _denial(self, denial: Denial) -> Iterator[Finding]:
        if not self._covered(denial.pattern) and not self._may_be_created(denial.pattern):
            yield self._fits_nothing(denial)

    def _covered(self, pattern: NamePattern) -> tuple[str, ...]:
        """The names of the registry that a pattern covers."""
        if pattern.is_exact:
            return (pattern.text,) if pattern.text in self._registry else ()
        found = self._matches.get(pattern.text)
        if found is None:
            found = self._matches[pattern.text] = tuple(name for name in self._registry if pattern.matches(name))
        return found

    def _unreachable(self, agent: AgentPolicy) -> Iterator[Finding]:
        """Entries of one list that come after an entry for the same names that has no conditions."""
        first: dict[tuple[str | None, str], list[Grant]] = {}
        for grant in agent.grants:
            key = (grant.role, grant.pattern.text)
            before = next((each for each in first.get(key, ()) if _serves(each, grant)), None)
            if before is not None:
                message = f"the entry for `{grant.pattern.text}` is never reached: {before.origin} comes first"
                yield Finding("grant_unreachable", message, grant.origin, "keep one of the two")
            elif grant.runs is None and grant.not_after is None and not grant.purpose_required:
                first.setdefault(key, []).append(grant)

    def _delegation(self, agent: AgentPolicy) -> Iterator[Finding]:
        """Agents that act for nobody or take no proofs, and values that only a proxy may use where there is none."""
        acts_for, agents = agent.acts_for, self._policy.agents
        if acts_for is not None and agent.agent_id in (acts_for.agents or ()):
            message = f"agent `{agent.agent_id}` acts for itself, which is refused: what it may have it asks for itself"
            yield Finding("acts_for_itself", message, agent.origin, "take it out of `agents`")
        for other in sorted((acts_for.agents or frozenset()) - agents.keys()) if acts_for is not None else ():
            message = f"agent `{agent.agent_id}` acts for agent `{other}`, which the policy does not have"
            yield Finding("unknown_agent", message, agent.origin, "correct the name, or add the agent to the policy")
        if acts_for is not None and acts_for.audience is None:
            served = (a for a in agents.values() if any(acts_for.covers(a.agent_id, way) for way in acts_for.deliver))
            for other in (each.agent_id for each in served if each.proof_required):
                message = f"agent `{agent.agent_id}` acts for `{other}`, which wants proofs, and names no `audience`"
                hint = "write `audience:` in its `acts_for`: the address where it is called"
                yield Finding("proof_without_audience", message, agent.origin, hint)
        others = [each.acts_for for each in agents.values() if each is not agent and each.acts_for is not None]
        if any(each.covers(agent.agent_id, "proxy") for each in others):
            return
        for grant in agent.grants:
            if grant.deliver == ("proxy",):
                message = f"`{grant.pattern.text}` may only be used through a proxy, and none acts for this agent"
                hint = "write `acts_for: {agents: […], deliver: [proxy]}` below the agent that the proxy runs as"
                yield Finding("no_proxy", message, grant.origin, hint)

    def _roles(self) -> Iterator[Finding]:
        taken = {role for agent in self._policy.agents.values() for role in agent.roles}
        for role in self._policy.roles.values():
            if role.name not in taken:
                hint = f"write `roles: [{role.name}]` below an agent, or remove it"
                yield Finding("unused_role", f"no agent takes the role `{role.name}`", role.origin, hint)

    def _secrets(self) -> Iterator[Finding]:
        most = self._configuration.cache.max_ttl_seconds
        for entry in self._registry.values():
            if entry.name not in self._used:
                hint = "allow it to an agent, or remove it from the registry"
                yield Finding("unused_secret", f"no agent can get the secret `{entry.name}`", entry.origin, hint)
            if most is not None and entry.ttl_seconds is not None and entry.ttl_seconds > most:
                message = f"ttl_seconds {entry.ttl_seconds} of `{entry.name}` is cut to the cache's maximum of {most}"
                yield Finding(
                    "ttl_cut", message, entry.origin, "raise `max_ttl_seconds` of the cache, or lower it here"
                )
        for name in self._policy.secret_limits:
            if self._configuration.entry_of(name) is None:
                message = f"`limits` names the secret `{name}`, which the registry does not have"
                yield Finding("unknown_secret", message, None, "correct the name, or add it to the registry")

    def _issuers(self) -> Iterator[Finding]:
        anchors = self._configuration.anchors
        if not anchors:
            hint = "add `issuers:`; `secret-broker init` makes a first one"
            yield Finding("no_issuer", "there is no issuer, so no agent can be identified", None, hint)
            return
        spoken_for = frozenset[str]().union(*(anchor.agents for anchor in anchors))
        for agent in self._policy.agents.values():
            if agent.agent_id not in spoken_for:
                message = f"no issuer may speak for agent `{agent.agent_id}`"
                yield Finding("agent_without_issuer", message, agent.origin, "add it to `agents` of an issuer")
        for agent_id in sorted(spoken_for - set(self._policy.agents)):
            message = f"an issuer may speak for agent `{agent_id}`, which the policy does not have"
            yield Finding("unknown_agent", message, None, "correct the name, or add the agent to the policy")

    def _gateway(self) -> Iterator[Finding]:
        """An address for a gateway as which nobody may ask."""
        acting = [each for each in self._policy.agents.values() if each.acts_for and "value" in each.acts_for.deliver]
        if self._configuration.server is not None and not acting:
            message = "`server` is written, and no agent may act for others, so the gateway does not run"
            hint = "write below `agents:`: gateway: {allow: [], acts_for: {all_agents: true, deliver: [value]}}"
            yield Finding("gateway_without_agent", message, None, hint)

    def _tokens(self) -> Iterator[Finding]:
        """Static tokens that are good for nothing."""
        for token in self._configuration.static_tokens.values():
            agent = self._policy.agents.get(token.agent)
            if token.expires_at <= self._now:
                hint = f"`secret-broker tokens revoke {token.token_id}` takes it out"
                yield Finding("token_over", f"the token {token.token_id} is over", token.origin, hint)
            elif agent is None:
                message = f"the token {token.token_id} is of agent `{token.agent}`, which the policy does not have"
                hint = f"add the agent, or `secret-broker tokens revoke {token.token_id}`"
                yield Finding("token_of_unknown_agent", message, token.origin, hint)
            elif agent.proof_required:
                message = f"agent `{token.agent}` wants proofs, which the token {token.token_id} cannot show"
                hint = "give the token to an agent of its own, without `proof: required`"
                yield Finding("token_without_proof", message, token.origin, hint)

    def _dashboard(self) -> Iterator[Finding]:
        """What is signed where nobody's signature counts."""
        dashboard, approvers = self._configuration.dashboard, self._configuration.approvers
        if not approvers.people:
            return
        if dashboard.origin not in approvers.origins:
            message = f"`origins` of approvers.yaml leaves out {dashboard.origin}, where the dashboard is visited"
            yield Finding("dashboard_not_an_origin", message, None, "add it, or leave `origins` out")
        for person in approvers.people.values():
            for key in person.keys:
                if isinstance(key, WebAuthnKey) and key.rp_id != dashboard.rp_id:
                    message = f"a key of `{person.name}` belongs to {key.rp_id}; the dashboard is at {dashboard.origin}"
                    yield Finding("key_of_another_host", message, person.origin, "enrol the person again, or remove it")
