"""`explain`: what would happen, by which line, within which limits."""

from dataclasses import replace

import pytest

from broker_worker.core.configuration import CacheSettings, Configuration, SecretEntry
from broker_worker.core.explanation import Explanation, explain
from broker_worker.core.policy import Origin
from broker_worker.files.policy import read_policy
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

NOW = 1_800_000_000_000
POLICY = """\
limits: {agent: 10/m, run: 5/m, secret: 100/m, secrets: {two: 7/m}}
agents:
  codex:
    allow:
      - one
      - {secret: two, max_ttl: 1m, rate: 3/m, purpose: required}
      - lost
"""


@pytest.fixture
def configuration() -> Configuration:
    """A policy over two secrets of which the first lives 200 s."""
    document = Section(
        parse_yaml(POLICY.encode(), "policy.yaml"), file="policy.yaml", origin="policy.yaml", what="top level"
    )
    registry = {
        name: SecretEntry(name, f"local://{name}", ttl, Origin("secrets.yaml", 2))
        for name, ttl in (("one", 200), ("two", None))
    }
    return Configuration(read_policy(document), registry, CacheSettings(), (), (), "")


def ask(configuration: Configuration, name: str, *, agent: str = "codex", purpose: str = "") -> Explanation:
    return explain(configuration, agent, "run-1", name, purpose=purpose, now=NOW)


def limits(explanation: Explanation) -> list[tuple[str, str]]:
    return [(limit.scope, str(limit.rate)) for limit in explanation.limits]


def test_a_granted_name(configuration: Configuration) -> None:
    """Its line, its registry entry, its life and its limits."""
    found = ask(configuration, "one")
    assert (found.allowed, found.reason, str(found.decision.origin)) == (True, "granted", "policy.yaml:5")
    assert (found.entry, found.ttl_seconds) == (configuration.registry["one"], 200)
    assert limits(found) == [("agent", "10/m, 10 at once"), ("run", "5/m, 5 at once"), ("secret", "100/m, 100 at once")]


def test_an_entry_s_own_life_and_rate(configuration: Configuration) -> None:
    """`max_ttl` cuts the registry's life; the rate counts beside the others."""
    found = ask(configuration, "two", purpose="why")
    assert found.ttl_seconds == 60
    assert limits(found)[2:] == [("secret", "7/m, 7 at once"), ("grant", "3/m, 3 at once")]


def test_a_refused_name_counts_against_agent_and_run_only(configuration: Configuration) -> None:
    """Nobody uses up the limit of a secret that it may not have."""
    found = ask(configuration, "two")
    assert (found.allowed, found.reason, found.ttl_seconds) == (False, "purpose_required", None)
    assert [scope for scope, _ in limits(found)] == ["agent", "run"]


def test_a_name_that_the_registry_does_not_have_is_refused(configuration: Configuration) -> None:
    """An entry alone releases nothing."""
    found = ask(configuration, "lost")
    assert (found.allowed, found.reason, found.decision.allowed) == (False, "unknown_secret", True)


def test_of_a_policy_by_itself_every_granted_name_counts_as_known(configuration: Configuration) -> None:
    """There is no registry to ask."""
    found = ask(replace(configuration, registry={}, policy_only=True), "lost")
    assert (found.allowed, found.ttl_seconds) == (True, None)
    assert ask(replace(configuration, registry={}, policy_only=True), "two", purpose="why").ttl_seconds == 60


def test_an_unknown_agent_has_no_limits(configuration: Configuration) -> None:
    """It gets nothing that could be counted."""
    found = ask(configuration, "one", agent="stranger")
    assert (found.reason, found.limits) == ("unknown_agent", ())
