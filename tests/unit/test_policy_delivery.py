"""How values may reach the work, and who may ask for others: what the policy's file says and what it decides."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.messages import Delivery, Way
from agent_sdk.wire.names import NamePattern
from broker_worker.cli import main
from broker_worker.core.configuration import CacheSettings, Configuration
from broker_worker.core.digest import policy_digest
from broker_worker.core.errors import ConfigError
from broker_worker.core.lint import lint
from broker_worker.core.policy import DELIVERIES, WAYS, ActsFor, AgentPolicy, Grant, Origin, Policy, decide
from broker_worker.files.policy import read_policy
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

NOW = 1_800_000_000_000
HERE = Origin("policy.yaml", 1)


def read(text: str) -> Policy:
    """A policy as it stands in a file."""
    node = parse_yaml(text.encode(), "policy.yaml")
    return read_policy(Section(node, file="policy.yaml", origin="policy.yaml", what="top level"))


def configured(text: str) -> Configuration:
    """A configuration of a policy by itself."""
    return Configuration(read(text), {}, CacheSettings(), (), (), "", policy_only=True)


@given(deliver=st.sets(st.sampled_from(WAYS), min_size=1), way=st.sampled_from(DELIVERIES))
def test_a_value_reaches_the_work_only_in_the_ways_that_are_named(deliver: set[Way], way: Delivery) -> None:
    """No way implies another, whichever are allowed, and two at once take both."""
    policy = Policy({"codex": AgentPolicy("codex", HERE, (Grant(NamePattern("one"), HERE, deliver=tuple(deliver)),))})
    decision = decide(policy, "codex", "run-1", "one", purpose="", now=NOW, way=way)
    assert decision.allowed == (set(way.split(",")) <= deliver)
    assert decision.allowed or decision.reason == "deliver_not_granted"


def test_entries_for_other_ways_are_passed_over() -> None:
    """Two entries for one name serve a way each; without the question any entry does."""
    policy = read(
        "agents:\n  codex:\n    allow:\n      - {secret: one, deliver: [proxy]}\n"
        "      - {secret: one, deliver: [env], max_ttl: 1m}\n      - two\n"
    )
    lines = {
        way: str(decide(policy, "codex", "run-1", "one", purpose="", now=NOW, way=way).origin)
        for way in ("proxy", "env", "file", None)
    }
    assert lines == {"proxy": "policy.yaml:4", "env": "policy.yaml:5", "file": "policy.yaml:5", None: "policy.yaml:4"}
    assert not decide(policy, "codex", "run-1", "one", purpose="", now=NOW, way="file").allowed
    assert all(decide(policy, "codex", "run-1", "two", purpose="", now=NOW, way=way).allowed for way in WAYS)


def test_who_may_act_for_others_is_written_below_the_agent() -> None:
    """For some agents or for all, in some ways; nobody does without it."""
    policy = read(
        "agents:\n  codex: {allow: [], proof: required}\n"
        "  egress: {allow: [], acts_for: {agents: [codex], deliver: [proxy]}}\n"
        "  gate: {allow: [], acts_for: {all_agents: true, deliver: [value, env], audience: 'http://127.0.0.1:7700/'}}\n"
    )
    assert policy.agents["codex"].acts_for is None
    assert policy.agents["codex"].proof_required
    assert policy.agents["egress"].acts_for == ActsFor(frozenset({"codex"}), ("proxy",))
    assert not policy.agents["egress"].proof_required
    gate = policy.agents["gate"].acts_for
    assert gate == ActsFor(None, ("value", "env"), "http://127.0.0.1:7700")
    assert [gate.covers("anybody", way) for way in WAYS] == [True, True, False, False]


WRONG = [
    ("allow: [{secret: a, deliver: []}]", "`deliver`: the list is empty, so nothing could be delivered"),
    ("allow: [{secret: a, deliver: [mail]}]", "entry of `deliver`: found `mail`, expected `value` or `env`"),
    ("allow: [{secret: a, deliver: [env, env]}]", "entry of `deliver`: `env` stands twice"),
    (
        "allow: [{secret: a, actions: [write], deliver: [env]}]",
        "`deliver`: `deliver` stands in an entry that allows no",
    ),
    ("{allow: [], acts_for: {deliver: [proxy]}}", "`acts_for`: the key `agents` is missing"),
    ("{allow: [], acts_for: {agents: [b]}}", "`acts_for`: the key `deliver` is missing"),
    ("{allow: [], acts_for: {agents: [], deliver: [proxy]}}", "`agents`: the list is empty, so it acts for nobody"),
    (
        "{allow: [], acts_for: {agents: [b], all_agents: true, deliver: [proxy]}}",
        "`acts_for`: `agents` and `all_agents` both",
    ),
    ("{allow: [], acts_for: {all_agents: false, deliver: [proxy]}}", "`all_agents`: `all_agents: false` lets it act"),
    ("{allow: [], acts_for: {agents: [B], deliver: [proxy]}}", "is not in canonical form"),
    ("{allow: [], acts_for: {all_agents: true, deliver: [value], audience: here}}", "`audience`: "),
    ("{allow: [], acts_for: {all_agents: true, deliver: [value], audience: 'http://[::1'}}", "`audience`: "),
    ("{allow: [], acts_for: {all_agents: true, deliver: [value], audience: 'http://a/?b'}}", "`audience`: "),
    ("{allow: [], proof: sometimes}", "`proof`: found `sometimes`, expected `required` or `optional`"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_mistake_is_named_with_its_line(text: str, message: str) -> None:
    """Whatever is wrong about it."""
    entry = f"{{{text}}}" if text.startswith("allow") else text
    with pytest.raises(ConfigError) as caught:
        read(f"agents:\n  codex: {entry}\n")
    assert str(caught.value).startswith("policy.yaml:2: ")
    assert message in str(caught.value)
    assert caught.value.line == 2


def test_whatever_decides_counts_for_the_digest() -> None:
    """A change of one of these voids what people allowed."""
    texts = (
        "agents: {codex: {allow: [one]}}",
        "agents: {codex: {allow: [{secret: one, deliver: [proxy]}]}}",
        "agents: {codex: {allow: [one], proof: required}}",
        "agents: {codex: {allow: [one], acts_for: {all_agents: true, deliver: [proxy]}}}",
        "agents: {codex: {allow: [one], acts_for: {all_agents: true, deliver: [value]}}}",
        "agents: {codex: {allow: [one], acts_for: {agents: [x], deliver: [value]}}}",
        "agents: {codex: {allow: [one], acts_for: {agents: [x], deliver: [value], audience: 'http://a'}}}",
    )
    digests = {policy_digest(configured(text)) for text in texts}
    assert len(digests) == len(texts)
    same = "agents: {codex: {allow: [{secret: one, deliver: [proxy, file, env, value]}]}}"
    assert policy_digest(configured(same)) == policy_digest(configured(texts[0]))


def test_what_can_hardly_be_meant_is_warned_of() -> None:
    """A proxy's value without a proxy, and acting for an agent that there is not."""
    text = "agents:\n  codex:\n    allow:\n      - {secret: one, deliver: [proxy]}\n"
    assert [finding.code for finding in lint(configured(text), NOW)] == ["no_proxy"]
    proxy = "  egress: {allow: [], acts_for: {agents: [codex], deliver: [proxy]}}\n"
    assert lint(configured(text + proxy), NOW) == ()
    (finding,) = lint(configured(text + proxy.replace("[codex]", "[codex, codxe]")), NOW)
    assert (finding.code, str(finding.origin)) == ("unknown_agent", "policy.yaml:5")
    itself = text + "    acts_for: {agents: [codex], deliver: [proxy]}\n"
    assert [finding.code for finding in lint(configured(itself), NOW)] == ["acts_for_itself", "no_proxy"]


def test_a_proof_that_is_required_and_taken_nowhere_is_warned_of() -> None:
    """Without `audience` no proof counts, so such an agent would never be served there."""
    text = "agents:\n  codex: {allow: [one], proof: required}\n  grok: {allow: [one]}\n"
    acts = "  egress: {allow: [], acts_for: {all_agents: true, deliver: [proxy]}}\n"
    (finding,) = lint(configured(text + acts), NOW)
    assert (finding.code, str(finding.origin)) == ("proof_without_audience", "policy.yaml:4")
    assert "`codex`" in finding.message
    assert lint(configured(text + acts.replace("]}}", '], audience: "http://127.0.0.1:7700"}}')), NOW) == ()
    assert lint(configured(text + acts.replace("all_agents: true", "agents: [grok]")), NOW) == ()


def test_people_can_ask_what_holds_for_a_way(tmp_path: Path) -> None:
    """`policy explain --deliver` and a table's `deliver` decide as the broker does."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("agents:\n  codex:\n    allow:\n      - {secret: one, deliver: [proxy]}\n")
    told = {}
    for way in DELIVERIES:
        arguments = ["policy", "explain", "--agent", "codex", "--secret", "one", "--deliver", way, "--json"]
        result = CliRunner().invoke(main, [*arguments, "--file", str(policy)])
        told[way] = json.loads(result.output)["decision"], json.loads(result.output)["reason"]
    assert told["proxy"] == ("allow", "granted")
    assert {told[way] for way in DELIVERIES if way != "proxy"} == {("deny", "deliver_not_granted")}
    shown = CliRunner().invoke(main, [*arguments[:-3], "--deliver", "proxy", "--file", str(policy)])
    assert shown.output.startswith("allow: codex asks for one as proxy in run-0\n")
    table = tmp_path / "cases.yaml"
    table.write_text(
        "policy: policy.yaml\ncases:\n  - {agent: codex, secret: one, deliver: proxy, expect: allow}\n"
        "  - {agent: codex, secret: one, expect: deny, reason: deliver_not_granted}\n"
        '  - {agent: codex, secret: one, deliver: "env,file", expect: deny, reason: deliver_not_granted}\n'
    )
    assert CliRunner().invoke(main, ["policy", "test", str(table)]).output == "3 of 3 cases hold\n"
