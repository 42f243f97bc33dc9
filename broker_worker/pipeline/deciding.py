"""From an ask to its cases: what the policy and the registry say of each name, and what each name counts against."""

from itertools import islice

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import (
    MAX_LISTED,
    Delivery,
    Generate,
    ListNames,
    Put,
    Release,
    Renew,
    Report,
    Resolve,
    Ways,
)
from broker_worker.core.configuration import Configuration
from broker_worker.core.limits import Rate, both
from broker_worker.core.policy import VERB_OF, WAYS, Decision, Policy, Verb, decide
from broker_worker.core.recipes import parse_recipe
from broker_worker.core.redaction import repeats
from broker_worker.pipeline.batch import Action, Ask, Case
from broker_worker.ports import AdmissionAsk, Limit

ACTIONS: dict[type, Action] = {
    Resolve: "resolve",
    Put: "put",
    Generate: "generate",
    Renew: "renew",
    Release: "release",
    ListNames: "list",
    Report: "report",
}
VALUE_SHOWN = "value_in_the_open"
"""Why a write is refused whose name or purpose contains the value: both are recorded."""
MARKS_MS = 15_000
"""Requests whose deadlines lie in the same 15 s have their replay marks in one hash, which ends as a whole."""
MARKS_KEPT_MS = 60_000
"""How long marks outlive the deadline, after which the request is refused anyway: workers' clocks may differ."""
_REMEMBERED = 10_000


def open_cases(ask: Ask, configuration: Configuration, now: int) -> None:
    """Decide every name of a request that opened; refuse what the policy does not grant.

    A name that does not exist and one that is not allowed end alike for the agent: `denied`. Operations that no
    policy entry can grant are denied as well.
    """
    body = ask.request.body
    ask.action = ACTIONS[type(body)]
    if isinstance(body, Resolve):
        ask.deliver = way = body.deliver
        if way == "proxy" and ask.actor is None:  # a value that a proxy alone may use is sealed to no run
            ask.refuse(Code.DENIED, "not_a_proxy")
            return
        if body.ways:
            ask.deliver = None
            named = zip(body.names, body.ways, strict=True)
            ask.cases = [_case(ask, configuration, name, body.purpose, now, way=own) for name, own in named]
        else:
            ask.cases = [_case(ask, configuration, name, body.purpose, now, way=way) for name in body.names]
        for case in ask.cases:
            if case.rule is not None:
                ask.guarded = True
        if len(ask.cases) > 1:
            _refuse_beyond_burst(ask, configuration)
    elif isinstance(body, ListNames):
        ask.names, ask.ways = _names_for(ask, configuration, now)
    elif isinstance(body, Report):
        ask.known_names = configuration.registry  # whose calls they are is proved, and that is all there is to it
    elif isinstance(body, Put | Generate):
        _open_write(ask, body, configuration, now)
    else:
        ask.refuse(Code.DENIED, "action_not_granted")


def _open_write(ask: Ask, body: Put | Generate, configuration: Configuration, now: int) -> None:
    """Decide a write; what it asks beside the name is looked at only once the name is allowed."""
    if isinstance(body, Put) and repeats(body.value, body.name, body.purpose, body.replaces or ""):
        ask.refuse(Code.INVALID, VALUE_SHOWN)
        return
    replaces = body.replaces is not None
    case = _case(ask, configuration, body.name, body.purpose, now, VERB_OF[ask.action], replaces=replaces)
    ask.cases, ask.writes, ask.guarded = [case], True, case.rule is not None
    if case.code is not None:
        return
    if isinstance(body, Put):
        if not body.value:
            case.refuse(Code.INVALID, "empty_value")
        return
    try:
        parse_recipe(body.recipe)
    except ValueError:
        case.refuse(Code.INVALID, "unknown_recipe")
        return
    if body.reveal:
        reading = reading_of(ask, body.name, body.purpose, configuration, now)
        case.reading = reading.grant
        if not may_read(reading):
            case.refuse(Code.DENIED, "reading_not_granted")


def reading_of(ask: Ask, name: str, purpose: str, configuration: Configuration, now: int) -> Decision:
    """What the policy says of reading a name that this run has a value made for."""
    return _decided(ask, configuration, name, purpose, now, way="value")


def may_read(reading: Decision) -> bool:
    """Whether a value may be shown with the answer that it was made: reading it needs nobody's approval."""
    return reading.allowed and reading.grant is not None and reading.grant.approval is None


def _refuse_beyond_burst(ask: Ask, configuration: Configuration) -> None:
    """A request with more names than a limit admits at once would never be admitted: say so instead of `wait`."""
    agent = configuration.policy.agents.get(ask.identity.agent_id)
    for rate in (agent.limit, agent.run_limit) if agent is not None else ():
        if rate is not None and len(ask.cases) > rate.burst:
            ask.refuse(Code.TOO_LARGE, "more_names_than_burst")


def _decided(
    ask: Ask,
    configuration: Configuration,
    name: str,
    purpose: str,
    now: int,
    verb: Verb = "resolve",
    *,
    replaces: bool = False,
    way: Delivery | None = None,
) -> Decision:
    identity = ask.identity
    in_scope = identity.in_scope(name) and (ask.actor is None or ask.actor.in_scope(name))
    return decide(
        configuration.policy,
        identity.agent_id,
        identity.run_id,
        name,
        purpose=purpose,
        now=now,
        in_scope=in_scope,
        verb=verb,
        replaces=replaces,
        way=way,
    )


def _case(
    ask: Ask,
    configuration: Configuration,
    name: str,
    purpose: str,
    now: int,
    verb: Verb = "resolve",
    *,
    replaces: bool = False,
    way: Delivery | None = None,
) -> Case:
    decision = _decided(ask, configuration, name, purpose, now, verb, replaces=replaces, way=way)
    grant = decision.grant
    case = Case(name, decision, configuration.entry_of(name), None if grant is None else grant.approval, way=way)
    if not decision.allowed:
        case.refuse(Code.DENIED, decision.reason)
    elif case.entry is None:
        case.refuse(Code.DENIED, "unknown_secret")
    return case


def _names_for(ask: Ask, configuration: Configuration, now: int) -> tuple[tuple[str, ...], tuple[Ways, ...]]:
    """The names that this run could resolve now, if it said what for, and the ways that each value may go."""
    agent = configuration.policy.agents.get(ask.identity.agent_id)
    if agent is None:
        return (), ()
    exact = [grant.pattern.text for grant in agent.grants if grant.pattern.is_exact]
    wide = any(not grant.pattern.is_exact for grant in agent.grants)
    names = sorted(configuration.registry) if wide else sorted(set(exact))
    cases = (_case(ask, configuration, name, "list", now) for name in names)
    allowed = list(islice((case for case in cases if case.code is None), MAX_LISTED))
    return tuple(case.name for case in allowed), tuple(_ways_of(ask, configuration, case, now) for case in allowed)


def _ways_of(ask: Ask, configuration: Configuration, case: Case, now: int) -> Ways:
    """The ways that a value may go which this run could resolve: perhaps another entry's are among them."""
    grant = case.decision.grant
    if grant is not None and grant.deliver == WAYS:
        return WAYS
    return tuple(way for way in WAYS if _decided(ask, configuration, case.name, "list", now, way=way).allowed)


class Limits:
    """What requests count against under one configuration; remembered, since it is asked for every request.

    Every name counts against the agent and the run, so guessing names is limited. Only names that the policy allows
    count against a secret, so nobody can use up a secret's limit without having it.

    Args:
        policy: the policy in force.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._of_run: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self._of_name: dict[tuple[str, str, Rate | None], tuple[Limit, ...]] = {}

    def admission_of(self, ask: Ask, now: int) -> AdmissionAsk:
        """What the admission must mark and count for this ask.

        Args:
            ask: a request whose names are decided.
            now: the time, ms since the epoch.
        """
        request, decided = ask.request, ask.decided
        bucket = request.deadline // MARKS_MS
        if decided is not None and not ask.guarded:
            limits, of_names = decided.limits, decided.name_limits
        else:
            limits, of_names = self.of_ask(ask)
        return AdmissionAsk(
            keynames.seen(ask.sender.agent_id, bucket),
            request.request_id,
            ask.entry.entry_id,
            (bucket + 1) * MARKS_MS - now + MARKS_KEPT_MS,
            len(ask.cases) or 1,
            limits,
            of_names,
        )

    def of_ask(self, ask: Ask) -> tuple[tuple[Limit, ...], tuple[tuple[Limit, ...], ...]]:
        """The limits of an ask whose names are decided: its own, and those of each name that is allowed."""
        identity = ask.identity
        counts_as = identity if ask.action == "resolve" else ask.sender
        counted = [case for case in ask.cases if case.code is None]
        of_names = tuple([self.of_case(identity.agent_id, case) if case.is_counted else () for case in counted])
        return self.of_run(counts_as.agent_id, counts_as.run_id), of_names

    def of_run(self, agent_id: str, run_id: str) -> tuple[Limit, ...]:
        """The agent's limit and the run's."""
        known = self._of_run.get((agent_id, run_id))
        if known is None:
            limits = []
            agent = self._policy.agents.get(agent_id)
            if agent is not None and agent.limit is not None:
                limits.append(Limit(keynames.agent_limit(agent_id), agent.limit))
            if agent is not None and agent.run_limit is not None:
                limits.append(Limit(keynames.run_limit(agent_id, run_id), agent.run_limit))
            if len(self._of_run) >= _REMEMBERED:
                self._of_run.clear()
            known = self._of_run[agent_id, run_id] = tuple(limits)
        return known

    def of_case(self, agent_id: str, case: Case) -> tuple[Limit, ...]:
        """The secret's limit and that of the grant; of a value that is made and shown also that of reading it."""
        grant = case.decision.grant
        own = None if grant is None else grant.rate
        if case.reading is not None:
            own = both(own, case.reading.rate)
        known = self._of_name.get((agent_id, case.name, own))
        if known is None:
            limits = []
            of_secret = self._policy.limit_of_secret(case.name)
            if of_secret is not None:
                limits.append(Limit(keynames.secret_limit(case.name), of_secret))
            if own is not None:
                limits.append(Limit(keynames.grant_limit(agent_id, case.name), own))
            if len(self._of_name) >= _REMEMBERED:
                self._of_name.clear()
            known = self._of_name[agent_id, case.name, own] = tuple(limits)
        return known
