"""`policy replay`: what another policy would have said to what was asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledger_workbench import record

from agent_sdk.wire.audit import GENESIS, AuditEvent, decode_line, encode_line
from broker_worker.core.configuration import Configuration
from broker_worker.core.policy import ApprovalRule
from broker_worker.files.configuration import load_configuration
from broker_worker.ledger.replay import replay


def event(**fields: Any) -> AuditEvent:
    """One recorded decision."""
    return decode_line(encode_line(record(**fields), "worker-1", "0" * 16, 0, GENESIS))


def refused(reason: str, **fields: Any) -> AuditEvent:
    """One recorded refusal."""
    return event(outcome="refused", code="denied", reason=reason, **fields)


@pytest.fixture
def candidate(tmp_path: Path) -> Configuration:
    """A policy by itself."""
    path = tmp_path / "candidate.yaml"
    path.write_text(
        "agents:\n"
        "  claude:\n"
        "    allow:\n"
        "      - openai.api_key\n"
        "      - {secret: github.token, purpose: required}\n"
        "      - {pattern: db.*, runs: [nightly-*]}\n"
        "    deny: [aws.root]\n"
        "  unused: {allow: [nothing.here]}\n"
    )
    return load_configuration(path)


def changes(*events: AuditEvent, candidate: Configuration) -> list[tuple[str, str, str, int]]:
    """What differs: change, secret, reason, count."""
    found = replay(events, candidate)
    return [(each.change, each.secret_name, each.reason, each.count) for each in found.differences]


def test_what_both_policies_say_is_no_difference(candidate: Configuration) -> None:
    """The same answer is not listed."""
    assert changes(event(), refused("denied_explicitly", secret_name="aws.root"), candidate=candidate) == []


@pytest.mark.parametrize("reason", ["action_not_granted", "overwrite_not_granted"])
def test_a_write_that_both_policies_refuse_is_no_difference(reason: str, candidate: Configuration) -> None:
    """What only may be read was not allowed to be written before, and is not newly refused."""
    asked = refused(reason, secret_name="openai.api_key", action="put")
    assert changes(asked, candidate=candidate) == []


def test_what_was_given_and_would_be_refused_is_listed(candidate: Configuration) -> None:
    """With the reason and the rule of the candidate, counted by agent and secret."""
    taken = [event(secret_name="aws.root", at=n, run_id=f"run-{n}") for n in range(3)]
    (difference,) = replay(taken, candidate).differences
    assert (difference.change, difference.reason, difference.count, difference.runs) == (
        "refused",
        "denied_explicitly",
        3,
        3,
    )
    assert difference.rule == "candidate.yaml:7"
    assert difference.last_at - difference.first_at == 2


def test_what_was_refused_and_would_be_given_is_listed(candidate: Configuration) -> None:
    """A new grant that somebody has been waiting for shows."""
    assert changes(refused("no_grant"), candidate=candidate) == [("allowed", "openai.api_key", "granted", 1)]


def test_the_recorded_purpose_run_and_time_are_replayed(candidate: Configuration) -> None:
    """Conditions are judged by what was said then."""
    assert changes(
        event(secret_name="github.token"),
        event(secret_name="github.token", purpose="deploy"),
        event(secret_name="db.password"),
        event(secret_name="db.password", run_id="nightly-1"),
        candidate=candidate,
    ) == [("refused", "db.password", "run_not_covered", 1), ("refused", "github.token", "purpose_required", 1)]


@pytest.mark.parametrize("reason", ["rate_limited", "timeout", "approval_denied"])
def test_what_the_policy_allowed_and_something_else_refused_counts_as_allowed(
    reason: str, candidate: Configuration
) -> None:
    """A limit or a vault that said no is no statement of the policy."""
    assert changes(refused(reason), candidate=candidate) == []


def test_a_tokens_scope_still_refuses(candidate: Configuration) -> None:
    """What the token itself did not cover no policy gives."""
    assert changes(refused("out_of_scope"), candidate=candidate) == []


def test_entries_that_nobody_used_are_listed(candidate: Configuration) -> None:
    """Each by agent, with its line."""
    unused = replay([event()], candidate).unused
    assert [(each.agent_id, each.pattern) for each in unused] == [
        ("claude", "github.token"),
        ("claude", "db.*"),
        ("unused", "nothing.here"),
    ]
    assert unused[0].rule == "candidate.yaml:5"


def test_what_is_no_decision_about_a_name_is_passed_over(candidate: Configuration) -> None:
    """Renewals, lists and names that were replaced by a note are not replayed."""
    found = replay([event(action="renew"), event(action="list"), event(secret_name="[not a name]")], candidate)
    assert (found.decisions, found.skipped, found.differences) == (0, 1, [])


def test_a_grant_that_newly_asks_a_person_is_listed(candidate: Configuration) -> None:
    """Unless the recorded release was approved, or waited for an approval, already."""
    claude = candidate.policy.agents["claude"]
    asking = tuple(replace(grant, approval=ApprovalRule(("ops",))) for grant in claude.grants)
    policy = replace(candidate.policy, agents={"claude": replace(claude, grants=asking)})
    asked = event(outcome="refused", code="approval_pending", reason="approval_pending", approval_id="a" * 16)
    approved = event(approval_id="a" * 16)
    found = changes(event(), asked, approved, candidate=replace(candidate, policy=policy))
    assert found == [("asks", "openai.api_key", "granted", 1)]
