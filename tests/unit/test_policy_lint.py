"""Lint: statements without effect and names that fit nothing."""

from dataclasses import replace

import pytest

from agent_sdk.wire.tokens import TrustAnchor
from broker_worker.core.configuration import (
    CacheSettings,
    Configuration,
    SecretEntry,
    ServerSettings,
    StaticToken,
)
from broker_worker.core.lint import lint
from broker_worker.core.policy import Origin
from broker_worker.files.policy import read_policy
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

NOW = 1_800_000_000_000


def configuration(policy: str, *secrets: str, issuer_for: tuple[str, ...] = ("codex",)) -> Configuration:
    """A configuration with that policy and those secrets."""
    document = Section(
        parse_yaml(policy.encode(), "policy.yaml"), file="policy.yaml", origin="policy.yaml", what="top level"
    )
    registry = {
        name: SecretEntry(name, f"local://{name}", None, Origin("secrets.yaml", line))
        for line, name in enumerate(secrets, 2)
    }
    anchor = TrustAnchor("local", bytes(32), frozenset(issuer_for), 3600)
    return Configuration(read_policy(document), registry, CacheSettings(), (anchor,), (), "")


def found(policy: str, *secrets: str, issuer_for: tuple[str, ...] = ("codex",)) -> list[tuple[str, str]]:
    """Codes and places of the findings."""
    findings = lint(configuration(policy, *secrets, issuer_for=issuer_for), NOW)
    return [(finding.code, str(finding.origin)) for finding in findings]


def test_a_configuration_in_which_everything_counts_has_no_findings() -> None:
    """Among it an agent that is meant to have nothing."""
    policy = 'agents:\n  codex: {allow: [one, {pattern: "two.*"}]}\n  random: {allow: []}\n'
    assert found(policy, "one", "two.x", issuer_for=("codex", "random")) == []


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("agents:\n  codex:\n    allow:\n      - one\n      - oen\n", [("unknown_secret", "policy.yaml:5")]),
        (
            "agents:\n  codex:\n    allow:\n      - one\n      - pattern: x.*\n",
            [("pattern_matches_nothing", "policy.yaml:5")],
        ),
        ("agents:\n  codex:\n    allow: [one]\n    deny: [tow]\n", [("unknown_secret", "policy.yaml:4")]),
        ("deny: [{pattern: x.*}]\nagents:\n  codex: {allow: [one]}\n", [("pattern_matches_nothing", "policy.yaml:1")]),
        (
            "agents:\n  codex:\n    allow:\n      - one\n      - {secret: one, not_after: 2020-01-01}\n",
            [("grant_ended", "policy.yaml:5"), ("grant_unreachable", "policy.yaml:5")],
        ),
        ("roles:\n  r: {allow: [one]}\nagents:\n  codex: {allow: [one]}\n", [("unused_role", "policy.yaml:2")]),
        (
            "agents:\n  codex:\n    allow:\n      - one\n      - {secret: one, max_ttl: 5m}\n",
            [("grant_unreachable", "policy.yaml:5")],
        ),
        ("limits: {secrets: {tow: 1/m}}\nagents:\n  codex: {allow: [one]}\n", [("unknown_secret", "None")]),
    ],
)
def test_a_statement_without_effect_is_found(policy: str, expected: list[tuple[str, str]]) -> None:
    """Each by its line."""
    assert found(policy, "one") == expected


def test_a_secret_that_nobody_can_get_is_found() -> None:
    """Whether it is allowed to nobody or denied to all who have it."""
    policy = "agents:\n  codex: {allow: [one, two], deny: [two]}\n"
    assert ("unused_secret", "secrets.yaml:3") in found(policy, "one", "two")
    assert ("unused_secret", "secrets.yaml:4") in found(policy, "one", "two", "three")


def test_an_entry_that_is_denied_anyway_is_found() -> None:
    """The message names the entry that wins."""
    rules = configuration("agents:\n  codex:\n    allow: [one, two]\n    deny: [two]\n", "one", "two")
    finding = next(finding for finding in lint(rules, NOW) if finding.code == "grant_shadowed")
    assert finding.message == "the entry for `two` is denied to agent `codex` by policy.yaml:4"


def test_a_pattern_of_which_nothing_is_left_is_found() -> None:
    """Everything that it covers is denied."""
    policy = 'agents:\n  codex:\n    allow: [one, {pattern: "two.*"}]\n    deny: [two.a, two.b]\n'
    assert ("grant_shadowed", "policy.yaml:3") in found(policy, "one", "two.a", "two.b")
    assert ("grant_shadowed", "policy.yaml:3") not in found(policy, "one", "two.a", "two.b", "two.c")


def test_an_agent_whose_entries_are_all_without_effect_is_found() -> None:
    """It gets nothing, and its author meant something."""
    assert ("agent_gets_nothing", "policy.yaml:2") in found("agents:\n  codex: {allow: [oen]}\n", "one")


def test_an_entry_with_conditions_does_not_hide_the_next() -> None:
    """Several entries for a name are alternatives."""
    entries = "[{secret: one, runs: [a]}, {secret: one, purpose: required}, one]"
    assert found(f"agents:\n  codex: {{allow: {entries}}}\n", "one") == []


def test_an_agent_s_entry_may_override_its_role_s() -> None:
    """The same name in a role and beside the agent is no mistake."""
    policy = "roles: {r: {allow: [one]}}\nagents:\n  codex: {roles: [r], allow: [{secret: one, max_ttl: 5m}]}\n"
    assert found(policy, "one") == []


def test_a_finding_about_a_role_stands_once() -> None:
    """However many agents take it."""
    policy = "roles:\n  r: {allow: [one, oen]}\nagents:\n  codex: {roles: [r]}\n  grok: {roles: [r]}\n"
    assert found(policy, "one", issuer_for=("codex", "grok")) == [("unknown_secret", "policy.yaml:2")]


def test_agents_and_issuers_must_meet() -> None:
    """An agent without an issuer cannot be identified, and an issuer's agent may be a typo."""
    findings = found("agents:\n  codex: {allow: [one]}\n", "one", issuer_for=("codxe",))
    assert findings == [("agent_without_issuer", "policy.yaml:2"), ("unknown_agent", "None")]


def test_no_issuer_is_one_finding() -> None:
    """Not one an agent."""
    rules = replace(configuration("agents: {codex: {allow: [one]}}", "one"), anchors=())
    assert [finding.code for finding in lint(rules, NOW)] == ["no_issuer"]


def test_a_life_beyond_the_cache_s_maximum_is_found() -> None:
    """It is cut silently otherwise."""
    rules = configuration("agents: {codex: {allow: [one]}}", "one")
    long = replace(rules, registry={"one": replace(rules.registry["one"], ttl_seconds=3600)})
    assert [(finding.code, finding.message) for finding in lint(long, NOW)] == [
        ("ttl_cut", "ttl_seconds 3600 of `one` is cut to the cache's maximum of 900")
    ]
    assert lint(replace(long, cache=CacheSettings(300, None, 5)), NOW) == ()


def test_of_a_policy_by_itself_only_the_policy_is_looked_at() -> None:
    """Without a registry every name would look unknown."""
    rules = replace(
        configuration("roles: {r: {allow: [a]}}\nagents: {codex: {allow: [one]}}"), policy_only=True, anchors=()
    )
    assert [finding.code for finding in lint(rules, NOW)] == ["unused_role"]


def test_findings_are_in_the_order_of_lines_and_have_hints() -> None:
    """So that people can work through them."""
    policy = "agents:\n" + "".join(f"  a{n}: {{allow: [x{n}]}}\n" for n in range(12))
    findings = lint(configuration(policy, issuer_for=tuple(f"a{n}" for n in range(12))), NOW)
    lines = [finding.origin.line for finding in findings if finding.origin is not None]
    assert lines == sorted(lines)
    assert all(finding.hint for finding in findings)


def served(policy: str, server: ServerSettings | None, *tokens: StaticToken) -> list[tuple[str, str]]:
    """Codes and places of the findings about the gateway and static tokens."""
    read = configuration(policy, issuer_for=("codex", "gateway"))
    read = replace(read, server=server, static_tokens={token.token_id: token for token in tokens})
    return [(found.code, str(found.origin)) for found in lint(read, NOW)]


_GATEWAY = """\
agents:
  codex: {allow: [], proof: %s}
  gateway: {allow: [], acts_for: {all_agents: true, deliver: [value]%s}}
"""


@pytest.mark.parametrize(
    ("policy", "server", "expected"),
    [
        (_GATEWAY % ("optional", ""), ServerSettings(), []),
        (_GATEWAY % ("required", ', audience: "http://127.0.0.1:7700"'), ServerSettings(), []),
        (_GATEWAY % ("required", ""), ServerSettings(), [("proof_without_audience", "policy.yaml:3")]),
        (_GATEWAY.replace("value", "proxy") % ("optional", ""), ServerSettings(), [("gateway_without_agent", "None")]),
        (_GATEWAY.replace("value", "proxy") % ("optional", ""), None, []),
    ],
)
def test_a_gateway_needs_an_agent_and_an_audience(
    policy: str, server: ServerSettings | None, expected: list[tuple[str, str]]
) -> None:
    """Where one is to run, and where a proof is wanted from whoever asks through it."""
    assert served(policy, server) == expected


@pytest.mark.parametrize(
    ("agent", "proof", "expires_at", "expected"),
    [
        ("codex", "optional", NOW + 1, []),
        ("codex", "optional", NOW, ["token_over"]),
        ("cdoex", "optional", NOW + 1, ["token_of_unknown_agent"]),
        ("codex", "required", NOW + 1, ["token_without_proof"]),
    ],
)
def test_a_static_token_that_is_good_for_nothing_is_found(
    agent: str, proof: str, expires_at: int, expected: list[str]
) -> None:
    """It is over, of nobody, or of an agent that wants what it cannot show."""
    token = StaticToken("abcdefgh", agent, bytes(32), 0, expires_at, Origin("tokens.yaml", 7))
    policy = _GATEWAY % (proof, ', audience: "http://127.0.0.1:7700"')
    assert served(policy, None, token) == [(code, "tokens.yaml:7") for code in expected]
