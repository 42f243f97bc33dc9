"""Decisions that were made before, for runs that ask again what they asked before.

The opener gives the same identity for the same token, and the decoder the same operation for the same bytes. What the
policy says of the two can only change with the configuration, or when a grant ends.
"""

from copy import copy

from msgspec import Struct

from agent_sdk.wire.messages import Delivery, Operation, RichFields
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.configuration import Configuration
from broker_worker.core.policy import AgentPolicy
from broker_worker.pipeline.batch import Ask, Case
from broker_worker.pipeline.deciding import Limits, open_cases
from broker_worker.ports import Limit

_REMEMBERED = 8_192
"""How many names are remembered, with the requests that named them: a request may have many, and nobody limits yet how
many such requests a run makes."""


class Decided(Struct, frozen=True, gc=False):
    """What was decided of one operation of one run, and what it counts against.

    Args:
        configuration: what decided.
        identity: whose rights decided.
        body: what was asked.
        since: from when on it holds, ms since the epoch.
        until: until when; None without end.
        cases: a case a name as it was opened; each request goes on with copies.
        limits: the agent's and the run's.
        name_limits: per name that is allowed, the limits that it counts against once.
        guarded: whether people may have to approve one of its names.
        deliver: how its values are to reach the work, if all go the same way.
    """

    configuration: Configuration
    identity: RunIdentity
    body: Operation
    since: int
    until: int | None
    cases: tuple[Case, ...]
    limits: tuple[Limit, ...]
    name_limits: tuple[tuple[Limit, ...], ...]
    guarded: bool
    deliver: Delivery | None

    def __repr__(self) -> str:
        """Of which run it is; no text that the agent chose, which may quote a value."""
        return f"Decided(identity={self.identity!r}, cases={self.cases!r})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return [("identity", self.identity), ("cases", self.cases)]


class DecisionCache:
    """Opens the cases of requests for names of a run's own.

    Args:
        limits: what requests count against under the configuration in force.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[tuple[int, int], Decided] = {}
        self._names = 0

    def open_cases(self, ask: Ask, configuration: Configuration, now: int) -> None:
        """Decide every name of a request, as `deciding.open_cases` does.

        Args:
            ask: a request that a run makes for itself, and that opened.
            configuration: the operator's files.
            now: the time, ms since the epoch.
        """
        decided = self._known.get((id(ask.identity), id(ask.request.body)))  # it holds both: no other has these ids
        if (
            decided is None
            or decided.configuration is not configuration
            or now < decided.since
            or (decided.until is not None and now >= decided.until)
        ):
            open_cases(ask, configuration, now)
            ask.decided = self._remember(ask, configuration, now) if ask.code is None else None
        else:
            ask.decided, ask.deliver, ask.guarded = decided, decided.deliver, ask.guarded or decided.guarded
            ask.cases = [copy(case) for case in decided.cases]

    def _remember(self, ask: Ask, configuration: Configuration, now: int) -> Decided:
        identity, body = ask.identity, ask.request.body
        agent = configuration.policy.agents.get(identity.agent_id)
        until = None if agent is None else _next_end(agent, now)
        limits, of_names = self._limits.of_ask(ask)
        cases = tuple([copy(case) for case in ask.cases])
        is_guarded = any(case.rule is not None for case in cases)  # the request may have been, under other files
        decided = Decided(configuration, identity, body, now, until, cases, limits, of_names, is_guarded, ask.deliver)
        if self._names + len(cases) > _REMEMBERED:
            self._known.clear()
            self._names = 0
        self._names += len(cases)
        self._known[id(identity), id(body)] = decided
        return decided


def _next_end(agent: AgentPolicy, now: int) -> int | None:
    """When the next grant of an agent ends: the first ms at which it no longer holds."""
    ends = [grant.not_after + 1 for grant in agent.grants if grant.not_after is not None and grant.not_after >= now]
    return min(ends, default=None)
