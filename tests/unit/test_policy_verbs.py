"""Verbs: reading never implies writing, writing never implies reading, and replacing is asked for by name."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.names import NamePattern
from broker_worker.cli import main
from broker_worker.core.configuration import CacheSettings, Configuration
from broker_worker.core.errors import ConfigError
from broker_worker.core.lint import lint
from broker_worker.core.policy import VERBS, AgentPolicy, Decision, Grant, Origin, Policy, Verb, decide
from broker_worker.files.policy import read_policy
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

NOW = 1_800_000_000_000
HERE = Origin("policy.yaml", 1)


def read(text: str) -> Policy:
    """A policy as it stands in a file."""
    node = parse_yaml(text.encode(), "policy.yaml")
    return read_policy(Section(node, file="policy.yaml", origin="policy.yaml", what="top level"))


def ask(policy: Policy, verb: Verb, *, replaces: bool = False) -> Decision:
    """What codex may do with `one`."""
    return decide(policy, "codex", "run-1", "one", purpose="", now=NOW, verb=verb, replaces=replaces)


def of(*grants: Grant) -> Policy:
    """A policy whose only agent has these entries."""
    return Policy({"codex": AgentPolicy("codex", HERE, grants)})


@given(actions=st.sets(st.sampled_from(VERBS), min_size=1), verb=st.sampled_from(VERBS))
def test_an_action_is_allowed_only_if_it_is_named(actions: set[Verb], verb: Verb) -> None:
    """No action implies another, whichever are allowed."""
    decision = ask(of(Grant(NamePattern("one"), HERE, actions=tuple(actions))), verb)
    assert decision.allowed == (verb in actions)
    assert decision.allowed or decision.reason == "action_not_granted"


def test_an_entry_without_actions_is_for_reading() -> None:
    """What was written before there were verbs means what it meant."""
    policy = read("agents:\n  codex: {allow: [one]}\n")
    assert [ask(policy, verb).allowed for verb in VERBS] == [True, False, False]


def test_entries_for_other_actions_are_passed_over() -> None:
    """A name may have one entry for reading and another, with conditions of its own, for writing."""
    policy = read(
        "agents:\n  codex:\n    allow:\n      - one\n"
        "      - {secret: one, actions: [write], runs: [nightly-*]}\n"
        "      - {secret: one, actions: [generate], overwrite: true}\n"
    )
    assert ask(policy, "resolve").origin == Origin("policy.yaml", 4)
    assert (ask(policy, "write").reason, ask(policy, "write").origin) == ("run_not_covered", Origin("policy.yaml", 5))
    assert ask(policy, "generate", replaces=True).origin == Origin("policy.yaml", 6)


def test_replacing_needs_an_entry_that_says_so() -> None:
    """Create-only unless `overwrite: true` stands there."""
    policy = read("agents:\n  codex:\n    allow:\n      - {secret: one, actions: [write]}\n")
    assert ask(policy, "write").allowed
    refused = ask(policy, "write", replaces=True)
    assert (refused.allowed, refused.reason) == (False, "overwrite_not_granted")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{secret: one, actions: [delete]}", "found `delete`, expected `resolve` or `write` or `generate`"),
        ("{secret: one, actions: []}", "policy.yaml:4: `actions`: the list is empty"),
        ("{secret: one, actions: [write, write]}", "`write` stands twice"),
        ("{secret: one, overwrite: true}", "`overwrite` stands in an entry that allows no writing"),
        ("{secret: one, actions: [resolve], overwrite: true}", "`overwrite` stands in an entry"),
    ],
)
def test_a_mistake_is_named_with_its_line(entry: str, message: str) -> None:
    """Wrong actions, and an `overwrite` that could mean nothing."""
    with pytest.raises(ConfigError) as caught:
        read(f"agents:\n  codex:\n    allow:\n      - {entry}\n")
    assert caught.value.line == 4
    assert message.rpartition(": ")[2] in str(caught.value)
    assert caught.value.hint


def test_an_entry_for_another_action_is_reached() -> None:
    """Lint calls an entry unreachable only if one before it allows all that it does."""
    policy = read(
        "agents:\n  codex:\n    allow:\n      - one\n      - {secret: one, actions: [write]}\n"
        "      - {secret: one, actions: [write], overwrite: true}\n      - {secret: one, actions: [write]}\n"
    )
    alone = Configuration(policy, {}, CacheSettings(), (), (), "", policy_only=True)
    assert [str(found.origin) for found in lint(alone, NOW)] == ["policy.yaml:7"]


POLICY = "agents:\n  codex:\n    allow:\n      - {secret: one, actions: [write]}\n"


def test_the_command_line_knows_verbs(tmp_path: Path) -> None:
    """`policy explain --action` and `policy test` decide by verb."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    explain = ["policy", "explain", "--agent", "codex", "--secret", "one", "--json", "--file"]
    found = [
        json.loads(CliRunner().invoke(main, [*explain, str(tmp_path / "policy.yaml"), *more]).output)
        for more in ([], ["--action", "write"], ["--action", "write", "--overwrite"])
    ]
    assert [each["decision"] for each in found] == ["deny", "allow", "deny"]
    (tmp_path / "cases.yaml").write_text(
        "policy: policy.yaml\ncases:\n"
        "  - {agent: codex, secret: one, action: write, expect: allow}\n"
        "  - {agent: codex, secret: one, action: write, overwrite: true, expect: deny, reason: overwrite_not_granted}\n"
        "  - {agent: codex, secret: one, action: generate, expect: allow}\n"
    )
    result = CliRunner().invoke(main, ["policy", "test", str(tmp_path / "cases.yaml")])
    assert "cases.yaml:5: codex wants to have made one: expected allow, found deny (action_not_granted" in result.output
    assert "2 of 3 cases hold" in result.output
