"""Digests of the files: the same for files that decide alike, another one for whatever decides."""

from pathlib import Path

import pytest
from files_workbench import EXAMPLES, ISSUERS, folder

from broker_worker.files.configuration import load_configuration


def test_the_digest_is_the_same_for_files_that_decide_alike(tmp_path: Path) -> None:
    """Comments, quotes, the order of agents and of secrets, and roles do not count."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    plain = folder(
        one,
        policy_yaml="agents:\n  a: {allow: [one, two]}\n  b: {allow: []}\n",
        secrets_yaml="secrets: {one: local://one, two: local://two}\n",
    )
    other = folder(
        two,
        policy_yaml='# why\nroles: {r: {allow: ["two"]}}\n'
        "agents:\n  b:\n    allow: []\n  a: {roles: [r], allow: [one]}\n",
        secrets_yaml="secrets:\n  two: {ref: local://two}\n  one: local://one\n",
    )
    first, second = load_configuration(plain), load_configuration(other)
    assert (first.digest, first.policy.digest) == (second.digest, second.policy.digest)
    assert len(first.digest) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_yaml": "agents:\n  codex: {allow: [one, two]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [{secret: one, max_ttl: 5m}]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [{secret: one, rate: 5/m}]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [{secret: one, runs: [a]}]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [{secret: one, purpose: required}]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [{secret: one, not_after: 2030-01-01}]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one], deny: [two]}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one], limits: {run: 1/m}}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one], limits: {agent: 1/m}}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one]}\nlimits: {secret: 1/m}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one]}\nlimits: {secrets: {one: 1/m}}\n"},
        {"policy_yaml": "agents:\n  codex: {allow: [one]}\n  grok: {allow: []}\n"},
        {"secrets_yaml": "secrets: {one: local://two}\n"},
    ],
)
def test_whatever_decides_changes_the_policy_s_digest(tmp_path: Path, changes: dict[str, str]) -> None:
    """Grants, conditions, denials, limits, agents and references."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before, after = load_configuration(folder(tmp_path / "a")), load_configuration(folder(tmp_path / "b", **changes))
    assert before.policy.digest != after.policy.digest
    assert before.digest != after.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets_yaml": "secrets: {one: {ref: local://one, ttl_seconds: 5}}\n"},
        {"secrets_yaml": "secrets: {one: {ref: local://one, max_stale: 5m}}\n"},
        {"secrets_yaml": "secrets: {one: {ref: local://one, critical: true}}\n"},
        {"broker_yaml": "provider: {type: local, budget: {reads_per_day: 5}}\n"},
        {"broker_yaml": "provider: {type: local}\ncache: {max_entries: 5}\n"},
        {"broker_yaml": "provider: {type: local, passphrase_env: X}\n"},
        {"broker_yaml": "provider: {type: local}\nserver: {port: 1}\n"},
        {"issuers_yaml": ISSUERS.replace("name: a", "name: b")},
        {"issuers_yaml": ISSUERS.replace("all_agents: true", "agents: [grok]")},
    ],
)
def test_what_does_not_decide_changes_the_configuration_s_digest_alone(tmp_path: Path, changes: dict[str, str]) -> None:
    """Lifetimes, cache, provider options, server and issuers."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before, after = load_configuration(folder(tmp_path / "a")), load_configuration(folder(tmp_path / "b", **changes))
    assert before.policy.digest == after.policy.digest
    assert before.digest != after.digest


def test_a_digest_does_not_depend_on_the_one_before() -> None:
    """Loading is repeatable."""
    assert load_configuration(EXAMPLES) == load_configuration(EXAMPLES)
