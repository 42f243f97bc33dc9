"""`policy.yaml`: who may have what. Default deny; every statement keeps its line.

The reference for operators is docs/policy.md.
"""

import re
from dataclasses import dataclass, field

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Way
from agent_sdk.wire.names import MAX_RUN_ID, NamePattern, check_agent_id, check_secret_name, is_agent_id
from broker_worker.core.limits import Rate
from broker_worker.core.policy import VERBS, WAYS, AgentPolicy, Denial, Grant, Policy, Role, Verb
from broker_worker.files.approval_rule import read_approval_rule
from broker_worker.files.delegation import read_acts_for, read_ways
from broker_worker.files.quantities import parse_duration, parse_moment, parse_rate
from broker_worker.files.sections import Section, Value, nearest

KEYS = ("agents", "policies", "roles", "deny", "limits", "default")
"""The keys of a policy; `policies` is another word for `agents`."""

AGENT_LIMIT = Rate(count=1200, period=60_000, burst=200)
"""All runs of an agent together, where nothing else is written."""
RUN_LIMIT = Rate(count=600, period=60_000, burst=100)
"""Each run, where nothing else is written."""
SECRET_LIMIT = Rate(count=6000, period=60_000, burst=1000)
"""A secret, all agents together, where nothing else is written."""

_GRANT_KEYS = (
    "secret",
    "pattern",
    "actions",
    "overwrite",
    "max_ttl",
    "rate",
    "purpose",
    "runs",
    "not_after",
    "approval",
    "deliver",
)
_AGENT_KEYS = ("allow", "deny", "roles", "limits", "acts_for", "proof")
_MAX_BURST = 1_000_000
_RUN_PATTERN = re.compile(r"[a-z0-9._-]*\*?[a-z0-9._-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits that hold where an agent or a secret has none of its own."""

    agent: Rate = AGENT_LIMIT
    run: Rate = RUN_LIMIT
    secret: Rate = SECRET_LIMIT
    secrets: dict[str, Rate] = field(default_factory=dict)


def read_policy(document: Section) -> Policy:
    """Read the policy of a document; its digest is filled in where the registry is known.

    Args:
        document: a mapping that has at least the keys `agents` or `policies`; its other keys are not looked at.

    Raises:
        ConfigError: with file and line.
    """
    default = document.get("default")
    if default is not None:
        default.choice("deny", hint="what nobody allows is denied, and that cannot be changed: write `default: deny`")
    document.refuse_both("agents", "policies")
    return _PolicyReader(document).read()


class _PolicyReader:
    """Reads one document; a pattern that stands often is compiled once."""

    def __init__(self, document: Section) -> None:
        self._document = document
        self._patterns: dict[str, NamePattern] = {}
        self._roles: dict[str, Role] = {}
        self._everybody: tuple[Denial, ...] = ()
        self._limits = _Limits()

    def read(self) -> Policy:
        self._limits = self._defaults(self._document.get("limits"))
        self._everybody = self._denials(self._document.get("deny"))
        roles = self._document.get("roles")
        if roles is not None:
            section = roles.section()
            self._roles = {role.name: role for role in (self._role(section, key) for key in section)}
        section = (self._document.get("agents") or self._document.require("policies")).section(
            hint="write `agents: {}` for a policy without agents"
        )
        agents = [self._agent(section, key) for key in section]
        return Policy(
            agents={agent.agent_id: agent for agent in agents},
            secret_limits=self._limits.secrets,
            secret_limit=self._limits.secret,
            roles=self._roles,
        )

    def _defaults(self, value: Value | None) -> _Limits:
        if value is None:
            return _Limits()
        section = value.section("agent", "run", "secret", "secrets")
        named: dict[str, Rate] = {}
        if "secrets" in section:
            secrets = section.require("secrets").section()
            named = {secrets.key(name, check_secret_name): _required_rate(secrets.require(name)) for name in secrets}
        return _Limits(
            agent=_rate(section.get("agent")) or AGENT_LIMIT,
            run=_rate(section.get("run")) or RUN_LIMIT,
            secret=_rate(section.get("secret")) or SECRET_LIMIT,
            secrets=named,
        )

    def _role(self, roles: Section, key: str) -> Role:
        name = roles.key(key, _check_role_name)
        section = roles.require(key).section("allow", "deny", hint="write `allow: [names]` below the role")
        if "allow" not in section and "deny" not in section:
            raise section.error("the role says nothing", "write `allow:` or `deny:` with a list")
        grants = self._grants(section.get("allow"), role=name)
        return Role(name, roles.origin_of(key), grants, self._denials(section.get("deny")))

    def _agent(self, agents: Section, key: str) -> AgentPolicy:
        agent_id = agents.key(key, check_agent_id)
        section = agents.require(key).section(*_AGENT_KEYS, hint="write `allow: []` below the agent")
        if "allow" not in section and "roles" not in section:
            raise section.error("the agent is given nothing", "write `allow: []` if that is meant")
        roles = self._taken(section.get("roles"))
        limits = section.get("limits")
        own = limits.section("agent", "run") if limits is not None else None
        acts_for, proof = section.get("acts_for"), section.get("proof")
        return AgentPolicy(
            agent_id=agent_id,
            origin=agents.origin_of(key),
            grants=self._grants(section.get("allow")) + tuple(grant for role in roles for grant in role.grants),
            denials=(
                *self._denials(section.get("deny")),
                *(denial for role in roles for denial in role.denials),
                *self._everybody,
            ),
            limit=(_rate(own.get("agent")) if own else None) or self._limits.agent,
            run_limit=(_rate(own.get("run")) if own else None) or self._limits.run,
            roles=tuple(role.name for role in roles),
            acts_for=None if acts_for is None else read_acts_for(acts_for),
            proof_required=proof is not None and proof.choice("required", "optional") == "required",
        )

    def _taken(self, value: Value | None) -> list[Role]:
        taken: list[Role] = []
        for item in value.items() if value is not None else ():
            name = item.text("the name of a role")
            role = self._roles.get(name)
            if role is None:
                raise item.error(f"there is no role `{name[:64]}`", nearest(name, tuple(self._roles)))
            if role in taken:
                raise item.error(f"the role `{name}` stands twice", "keep one of the two")
            taken.append(role)
        return taken

    def _denials(self, value: Value | None) -> tuple[Denial, ...]:
        return tuple(Denial(self._covered(item), item.origin) for item in value.items()) if value is not None else ()

    def _covered(self, item: Value) -> NamePattern:
        """What an entry of a deny list covers: a name, or a mapping with `pattern` or `secret`."""
        if not item.is_mapping:
            return self._exact(item)
        return self._pattern_of(item.section("secret", "pattern"))

    def _grants(self, value: Value | None, role: str | None = None) -> tuple[Grant, ...]:
        return tuple(self._grant(item, role) for item in value.items()) if value is not None else ()

    def _grant(self, item: Value, role: str | None) -> Grant:
        if not item.is_mapping:
            return Grant(self._exact(item), item.origin, role)
        section = item.section(*_GRANT_KEYS)
        max_ttl, purpose, not_after = section.get("max_ttl"), section.get("purpose"), section.get("not_after")
        approval, deliver = section.get("approval"), section.get("deliver")
        actions = _actions(section.get("actions"))
        return Grant(
            pattern=self._pattern_of(section),
            origin=item.origin,
            role=role,
            max_ttl=None if max_ttl is None else max_ttl.parsed(parse_duration),
            rate=_rate(section.get("rate")),
            purpose_required=purpose is not None and purpose.choice("required", "optional") == "required",
            runs=_runs(section.get("runs")),
            not_after=None if not_after is None else not_after.parsed(parse_moment),
            approval=None if approval is None else read_approval_rule(approval),
            actions=actions,
            overwrite=_overwrite(section.get("overwrite"), actions),
            deliver=WAYS if deliver is None else _read_deliver(deliver, actions),
        )

    def _pattern_of(self, section: Section) -> NamePattern:
        section.refuse_both("secret", "pattern")
        pattern = section.get("pattern")
        if pattern is None:
            return self._exact(section.require("secret", why="write `secret: NAME`, or `pattern:` for several names"))
        text = pattern.text("a pattern such as github.*")
        try:
            return self._compiled(text)
        except WireError as error:
            raise pattern.error(str(error)) from None

    def _exact(self, value: Value) -> NamePattern:
        text = value.text("a secret name such as openai.api_key")
        if "*" in text:
            raise value.error(f"`{text[:64]}` is a pattern, and a name was expected", f'write `pattern: "{text[:64]}"`')
        return self._compiled(value.name(check_secret_name))

    def _compiled(self, text: str) -> NamePattern:
        found = self._patterns.get(text)
        if found is None:
            found = self._patterns[text] = NamePattern(text)
        return found


def _check_role_name(text: str) -> str:
    if not is_agent_id(text):
        raise WireError(f"role name {text[:64]!r} is not in canonical form: expected the form of an agent id")
    return text


def _runs(value: Value | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    patterns: list[str] = []
    for item in value.items(hint="write `runs: [nightly-*]`"):
        text = item.text("a run id, where one `*` may stand for any characters")
        if len(text) > MAX_RUN_ID or _RUN_PATTERN.fullmatch(text) is None:
            raise item.expected("a run id in lower case, where one `*` may stand for any characters")
        patterns.append(text)
    if not patterns:
        raise value.error("the list is empty, so the entry would cover no run", "leave `runs` out to cover all of them")
    return tuple(patterns)


def _actions(value: Value | None) -> tuple[Verb, ...]:
    """What an entry allows; reading alone where nothing is written."""
    if value is None:
        return ("resolve",)
    found: list[Verb] = []
    for item in value.items(hint="write `actions: [resolve, write]`"):
        word = item.choice(*VERBS)
        verb = next(verb for verb in VERBS if verb == word)
        if verb in found:
            raise item.error(f"`{verb}` stands twice", "keep one of the two")
        found.append(verb)
    if not found:
        raise value.error("the list is empty, so the entry would allow nothing", "leave it out to allow `resolve`")
    return tuple(found)


def _read_deliver(value: Value, actions: tuple[Verb, ...]) -> tuple[Way, ...]:
    if "resolve" not in actions:
        raise value.error(
            "`deliver` stands in an entry that allows no reading", "add `actions: [resolve]`, or remove it"
        )
    return read_ways(value)


def _overwrite(value: Value | None, actions: tuple[Verb, ...]) -> bool:
    if value is None or not value.boolean():
        return False
    if actions == ("resolve",):
        raise value.error(
            "`overwrite` stands in an entry that allows no writing", "add `actions: [write]`, or remove it"
        )
    return True


def _rate(value: Value | None) -> Rate | None:
    return None if value is None else _required_rate(value)


def _required_rate(value: Value) -> Rate:
    """`30/m`, or a mapping with `rate` and `burst`."""
    if not value.is_mapping:
        return value.parsed(parse_rate)
    section = value.section("rate", "burst")
    burst = section.get("burst")
    most = None if burst is None else burst.integer(1, _MAX_BURST)
    return section.require("rate", why="such as `rate: 30/m`").parsed(lambda text: parse_rate(text, most))
