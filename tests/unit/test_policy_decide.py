"""`decide`: default deny, deny wins, conditions, and nothing that no grant covers."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_sdk.wire.names import NamePattern
from broker_worker.core.policy import AgentPolicy, Decision, Denial, Grant, Origin, Policy, decide

NOW = 1_800_000_000_000
HERE = Origin("policy.yaml", 1)


def grant(
    pattern: str, line: int = 1, *, purpose: bool = False, runs: tuple[str, ...] | None = None, end: int | None = None
) -> Grant:
    return Grant(NamePattern(pattern), Origin("policy.yaml", line), purpose_required=purpose, runs=runs, not_after=end)


def policy(*grants: Grant, deny: tuple[str, ...] = ()) -> Policy:
    denials = tuple(Denial(NamePattern(pattern), Origin("policy.yaml", 99)) for pattern in deny)
    return Policy({"codex": AgentPolicy("codex", HERE, grants, denials)})


def ask(rules: Policy, name: str = "github.read_token", *, agent: str = "codex", **more: str | bool) -> Decision:
    settings = {"purpose": "", "in_scope": True} | more
    return decide(
        rules,
        agent,
        str(settings.get("run", "run-1")),
        name,
        purpose=str(settings["purpose"]),
        now=NOW,
        in_scope=bool(settings["in_scope"]),
    )


def test_an_agent_that_the_policy_does_not_have_gets_nothing() -> None:
    """Unknown agents are refused, whatever others may have."""
    decision = ask(policy(grant("github.read_token")), agent="stranger")
    assert decision == Decision(False, "unknown_agent")


def test_a_name_that_no_entry_covers_is_refused_and_names_the_agent() -> None:
    """The line of the agent's section shows where an entry is missing."""
    assert ask(policy(), "openai.api_key") == Decision(False, "no_grant", HERE)


def test_a_granted_name_names_its_entry() -> None:
    """The audit can say which line released it."""
    entry = grant("github.read_token", 7)
    assert ask(policy(entry)) == Decision(True, "granted", Origin("policy.yaml", 7), entry)


def test_a_pattern_covers_one_part() -> None:
    """`github.*` is not a prefix: it covers neither `github` nor `github.org.token`."""
    rules = policy(grant("github.*"))
    assert [ask(rules, name).allowed for name in ("github.token", "github", "github.org.token")] == [True, False, False]


def test_an_entry_that_spells_the_name_comes_before_patterns() -> None:
    """Conditions written for one name hold even if a pattern stands above it."""
    rules = policy(grant("github.*", 2), grant("github.read_token", 5))
    assert ask(rules).origin == Origin("policy.yaml", 5)


def test_the_next_entry_counts_if_a_condition_does_not_hold() -> None:
    """Several entries for a name are alternatives."""
    rules = policy(grant("github.read_token", 2, runs=("nightly-*",)), grant("github.read_token", 3, purpose=True))
    decision = ask(rules, purpose="release notes")
    assert (decision.allowed, decision.origin) == (True, Origin("policy.yaml", 3))


def test_the_first_entry_whose_condition_failed_is_the_reason() -> None:
    """A refusal points at the entry that was written for the name, not at the last pattern that was tried."""
    rules = policy(grant("github.*", 2, end=NOW - 1), grant("github.read_token", 5, purpose=True))
    assert ask(rules) == Decision(False, "purpose_required", Origin("policy.yaml", 5))


@pytest.mark.parametrize("deny", ["github.read_token", "github.*", "**"])
def test_a_deny_wins_over_a_grant(deny: str) -> None:
    """Exact or by pattern, a deny entry refuses what an allow entry grants."""
    decision = ask(policy(grant("github.read_token"), deny=(deny,)))
    assert decision == Decision(False, "denied_explicitly", Origin("policy.yaml", 99))


def test_a_name_outside_the_token_s_scope_is_refused() -> None:
    """A token's scope narrows the policy."""
    assert ask(policy(grant("github.read_token")), in_scope=False).reason == "out_of_scope"


@pytest.mark.parametrize("purpose", ["", "   "])
def test_a_blank_purpose_does_not_count_as_one(purpose: str) -> None:
    """An entry with `purpose: required` wants words."""
    assert ask(policy(grant("github.read_token", purpose=True)), purpose=purpose).reason == "purpose_required"


def test_an_entry_holds_up_to_its_end_and_not_after() -> None:
    """`not_after` is the last millisecond."""
    assert ask(policy(grant("github.read_token", end=NOW))).allowed
    assert ask(policy(grant("github.read_token", end=NOW - 1))).reason == "grant_ended"


@pytest.mark.parametrize(
    ("pattern", "run", "covered"),
    [
        ("nightly-*", "nightly-7", True),
        ("nightly-*", "nightly-", True),
        ("nightly-*", "weekly-7", False),
        ("*-eu", "run-eu", True),
        ("a*a", "a", False),
        ("run-1", "run-1", True),
        ("run-1", "run-12", False),
        ("*", "anything", True),
    ],
)
def test_run_patterns(pattern: str, run: str, covered: bool) -> None:
    """One `*` stands for any characters, and the texts around it never overlap."""
    assert ask(policy(grant("github.read_token", runs=(pattern,))), run=run).allowed is covered


NAMES = st.sampled_from(["a", "b", "a.x", "a.y", "b.x", "a.x.z", "b.y.z"])
PATTERNS = st.sampled_from(["a", "b", "a.x", "a.*", "*.x", "a.**", "**", "*", "b.y.z", "*.*.z"])
GRANTS = st.builds(
    grant,
    PATTERNS,
    st.integers(1, 9),
    purpose=st.booleans(),
    runs=st.none() | st.sampled_from([("run-*",), ("other",)]),
    end=st.none() | st.sampled_from([NOW - 1, NOW, NOW + 1]),
)


@given(st.lists(GRANTS, max_size=6), st.lists(PATTERNS, max_size=2), NAMES, st.sampled_from(["", "why"]))
def test_it_agrees_with_the_plainest_reading_of_the_policy(
    grants: list[Grant], deny: list[str], name: str, purpose: str
) -> None:
    """Allowed exactly if some entry covers the name, its conditions hold, and no deny entry covers it."""
    covering = [
        entry
        for entry in grants
        if entry.pattern.matches(name)
        and (purpose or not entry.purpose_required)
        and entry.runs != ("other",)
        and (entry.not_after is None or entry.not_after >= NOW)
    ]
    expected = bool(covering) and not any(NamePattern(pattern).matches(name) for pattern in deny)
    decision = ask(policy(*grants, deny=tuple(deny)), name, purpose=purpose)
    assert decision.allowed is expected
    assert decision.grant in covering if expected else decision.grant is None


@given(st.lists(GRANTS, max_size=6), NAMES)
def test_adding_a_deny_never_allows_more(grants: list[Grant], name: str) -> None:
    """Whatever the grants are, a deny entry for the name refuses it."""
    assert not ask(policy(*grants, deny=(name,)), name, purpose="why").allowed


@given(st.permutations(["codex", "claude", "grok"]), NAMES, NAMES)
def test_the_order_of_agents_does_not_matter(order: list[str], first: str, second: str) -> None:
    """Nor does what other agents may have."""
    assume(first != second)
    granted = {"codex": first, "claude": second, "grok": second}
    agents = {agent: AgentPolicy(agent, HERE, (grant(granted[agent]),)) for agent in order}
    assert ask(Policy(agents), first).allowed
    assert not ask(Policy(agents), second).allowed
