"""`policy.yaml`: what each key means, and that every mistake has its line."""

import pytest

from agent_sdk.wire.names import NamePattern
from broker_worker.core.errors import ConfigError
from broker_worker.core.limits import Rate
from broker_worker.core.policy import AgentPolicy, Grant, Origin, Policy, decide
from broker_worker.files.policy import AGENT_LIMIT, KEYS, RUN_LIMIT, SECRET_LIMIT, read_policy
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

NOW = 1_800_000_000_000


def read(text: str) -> Policy:
    """The policy that a file with that text states."""
    document = Section(
        parse_yaml(text.encode(), "/etc/policy.yaml"), file="/etc/policy.yaml", origin="policy.yaml", what="top level"
    )
    document.refuse_unknown(KEYS)
    return read_policy(document)


def agent(text: str) -> AgentPolicy:
    """The agent `codex` of a file whose section of it is that text."""
    body = "".join(f"    {line}\n" for line in text.splitlines())
    return read(f"agents:\n  codex:\n{body}").agents["codex"]


def only_grant(entry: str) -> Grant:
    """The grant that one entry of an allow list makes."""
    (grant,) = agent(f"allow:\n  - {entry}").grants
    return grant


def test_a_name_in_an_allow_list_is_a_grant_with_its_line() -> None:
    """The origin is the file's short name and the entry's own line."""
    grants = agent("allow:\n  - openai.api_key\n  - github.read_token").grants
    assert [(grant.pattern.text, str(grant.origin)) for grant in grants] == [
        ("openai.api_key", "policy.yaml:4"),
        ("github.read_token", "policy.yaml:5"),
    ]


def test_an_agent_s_section_begins_at_its_key() -> None:
    """That line is shown where no entry covers a name."""
    assert agent("allow: []").origin == Origin("policy.yaml", 2)


def test_an_empty_allow_list_is_nothing() -> None:
    """It is valid, and nothing is granted."""
    rules = read("agents: {random-script: {allow: []}}")
    decision = decide(rules, "random-script", "run-1", "openai.api_key", purpose="", now=NOW)
    assert (decision.allowed, decision.reason) == (False, "no_grant")


def test_a_policy_without_agents_denies_everybody() -> None:
    """`agents: {}` is written out, so it is meant."""
    assert decide(read("agents: {}"), "codex", "run-1", "openai.api_key", purpose="", now=NOW).reason == "unknown_agent"


def test_an_entry_may_carry_every_condition() -> None:
    """All keys of a mapping entry."""
    entry = (
        "{secret: vercel.token, max_ttl: 10m, rate: {rate: 30/m, burst: 5}, purpose: required, "
        "runs: [nightly-*, run-1], not_after: 1970-01-02T00:00:00Z}"
    )
    assert only_grant(entry) == Grant(
        pattern=NamePattern("vercel.token"),
        origin=Origin("policy.yaml", 4),
        max_ttl=600,
        rate=Rate(30, 60_000, 5),
        purpose_required=True,
        runs=("nightly-*", "run-1"),
        not_after=86_400_000,
    )


def test_an_entry_without_conditions_has_none() -> None:
    """A mapping with `secret` alone means what the plain name means."""
    assert only_grant("{secret: vercel.token}") == only_grant("vercel.token")


def test_purpose_optional_is_what_holds_without_it() -> None:
    """It may be written out."""
    assert not only_grant("{secret: vercel.token, purpose: optional}").purpose_required


def test_a_pattern_is_one_where_it_is_written_as_such() -> None:
    """`pattern:` covers several names."""
    assert only_grant('{pattern: "github.**"}').pattern == NamePattern("github.**")


def test_an_agent_s_own_entries_come_before_its_roles() -> None:
    """In the order in which the roles are taken, each grant with its role's name and line."""
    rules = read(
        "roles:\n  b: {allow: [two]}\n  a: {allow: [three]}\nagents:\n  codex: {roles: [b, a], allow: [one]}\n"
    )
    grants = rules.agents["codex"].grants
    assert [(grant.pattern.text, grant.role) for grant in grants] == [("one", None), ("two", "b"), ("three", "a")]
    assert str(grants[1].origin) == "policy.yaml:2"


def test_denials_come_from_the_agent_its_roles_and_everybody() -> None:
    """All three refuse a name that is granted."""
    rules = read(
        'deny: [{pattern: "root.*"}]\nroles:\n  r: {deny: [two]}\n'
        'agents:\n  codex: {roles: [r], allow: [{pattern: "**"}], deny: [one]}\n'
    )
    names = ["one", "two", "root.x", "three"]
    decisions = [decide(rules, "codex", "run-1", name, purpose="", now=NOW) for name in names]
    assert [d.reason for d in decisions] == ["denied_explicitly"] * 3 + ["granted"]
    assert [str(d.origin) for d in decisions[:3]] == ["policy.yaml:5", "policy.yaml:3", "policy.yaml:1"]


def test_a_role_grants_nothing_to_those_who_do_not_take_it() -> None:
    """A role is a list, not a rule for everybody."""
    rules = read("roles:\n  r: {allow: [one]}\nagents:\n  codex: {allow: []}\n")
    assert not decide(rules, "codex", "run-1", "one", purpose="", now=NOW).allowed


def test_limits_have_defaults() -> None:
    """A policy that says nothing of limits is limited all the same."""
    rules = read("agents: {codex: {allow: []}}")
    assert (rules.agents["codex"].limit, rules.agents["codex"].run_limit) == (AGENT_LIMIT, RUN_LIMIT)
    assert rules.limit_of_secret("any") == SECRET_LIMIT


def test_limits_for_all_and_of_an_agent() -> None:
    """An agent's own limit replaces the one for all, each by itself."""
    rules = read(
        "limits: {agent: 10/m, run: 5/m, secret: 100/m, secrets: {one: {rate: 7/h, burst: 2}}}\n"
        "agents:\n  codex: {allow: [], limits: {run: 1/s}}\n  grok: {allow: []}\n"
    )
    codex, grok = rules.agents["codex"], rules.agents["grok"]
    assert (codex.limit, codex.run_limit) == (Rate(10, 60_000, 10), Rate(1, 1000, 1))
    assert (grok.limit, grok.run_limit) == (Rate(10, 60_000, 10), Rate(5, 60_000, 5))
    assert rules.limit_of_secret("one") == Rate(7, 3_600_000, 2)
    assert rules.limit_of_secret("two") == Rate(100, 60_000, 100)


def test_policies_is_another_word_for_agents() -> None:
    """The single-file form uses it."""
    assert read("policies: {codex: {allow: [one]}}") == read("agents: {codex: {allow: [one]}}")


def test_a_quoted_number_is_a_name() -> None:
    """Quotes make text of what YAML takes for something else."""
    assert [grant.pattern.text for grant in agent('allow: ["12", "on"]').grants] == ["12", "on"]


WRONG = [
    ("agents:\n  codex:\n", 2, "`codex`: found nothing, expected a mapping", "write `allow: []` below the agent"),
    ("agents:\n  codex: {}\n", 2, "`codex`: the agent is given nothing", "write `allow: []` if that is meant"),
    ("agents:\n  codex: {deny: [x]}\n", 2, "`codex`: the agent is given nothing", "write `allow: []` if that is meant"),
    ("agents:\n  codex:\n    allow:\n", 3, "`allow`: found nothing, expected a list", "write `[]` for an empty one"),
    ("agents:\n  codex:\n    allow: one\n", 3, "`allow`: found `one`, expected a list", "write `[]` for an empty one"),
    ("agents:\n  codex:\n    alow: []\n", 3, "`codex`: unknown key `alow`", "did you mean `allow`?"),
    (
        "agents:\n  codex:\n    zzz: []\n",
        3,
        "`codex`: unknown key `zzz`",
        "known here: allow, deny, roles, limits, acts_for, proof",
    ),
    ("agnets: {}\n", 1, "top level: unknown key `agnets`", "did you mean `agents`?"),
    ("agents: {}\npolicies: {}\n", 2, "top level: `agents` and `policies` both stand here", "keep one of the two"),
    ("agents:\n", 1, "`agents`: found nothing, expected a mapping", "write `agents: {}` for a policy without agents"),
    ("agents: []\n", 1, "`agents`: found a list, expected a mapping", "write `agents: {}` for a policy without agents"),
    (
        "agents: {}\ndefault: allow\n",
        2,
        "`default`: found `allow`, expected `deny`",
        "what nobody allows is denied, and that cannot be changed: write `default: deny`",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - github.*\n",
        4,
        "entry of `allow`: `github.*` is a pattern, and a name was expected",
        'write `pattern: "github.*"`',
    ),
    (
        "deny: ['*']\nagents: {}\n",
        1,
        "entry of `deny`: `*` is a pattern, and a name was expected",
        'write `pattern: "*"`',
    ),
    (
        "agents:\n  codex:\n    allow: [on]\n",
        3,
        "entry of `allow`: found `on`, which YAML takes for a boolean, expected a secret name such as openai.api_key",
        "put it in quotes",
    ),
    (
        "agents:\n  codex:\n    allow: [1.10]\n",
        3,
        "entry of `allow`: found `1.10`, which YAML takes for a number, expected a secret name such as openai.api_key",
        "put it in quotes",
    ),
    (
        "agents:\n  codex:\n    allow: [[one]]\n",
        3,
        "entry of `allow`: found a list, expected a secret name such as openai.api_key",
        "",
    ),
    (
        "agents:\n  codex:\n    allow: [OpenAI]\n",
        3,
        "entry of `allow`: this secret name is not in canonical form: expected lower-case ASCII letters and "
        "digits in parts joined by '.', '_' or '-'",
        "",
    ),
    (
        "agents:\n  Codex: {allow: []}\n",
        2,
        "`agents`: agent id 'Codex' is not in canonical form: expected lower-case ASCII letters and digits in parts "
        "joined by '.', '_' or '-'",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {max_ttl: 5m}\n",
        4,
        "entry of `allow`: the key `secret` is missing",
        "write `secret: NAME`, or `pattern:` for several names",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, pattern: b}\n",
        4,
        "entry of `allow`: `secret` and `pattern` both stand here",
        "keep one of the two",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, human: required}\n",
        4,
        "entry of `allow`: unknown key `human`",
        "known here: secret, pattern, actions, overwrite, max_ttl, rate, purpose, runs, not_after, approval, deliver",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {pattern: a*}\n",
        4,
        "`pattern`: this secret-name pattern is not valid: expected lower-case ASCII letters and digits in parts "
        "joined by '.', '_' or '-', where a whole part may be '*' and the last may be '**'",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, max_ttl: 600}\n",
        4,
        "`max_ttl`: found `600`, which YAML takes for a number, expected a number and its unit, such as 90s, 10m, 8h "
        "or 7d",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, rate: fast}\n",
        4,
        "`rate`: found `fast`, expected a rate such as 30/m, 5/s or 100/10m",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, rate: 0/m}\n",
        4,
        "`rate`: found `0/m`, a rate of 0 admits nothing: leave the entry out, or deny the secret",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, rate: {burst: 3}}\n",
        4,
        "`rate`: the key `rate` is missing",
        "such as `rate: 30/m`",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, rate: {rate: 3/m, burst: 0}}\n",
        4,
        "`burst`: found `0`, which YAML takes for a number, expected a whole number from 1 to 1000000",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, purpose: yes}\n",
        4,
        "`purpose`: found `yes`, which YAML takes for a boolean, expected `required` or `optional`",
        "known here: required, optional",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, runs: []}\n",
        4,
        "`runs`: the list is empty, so the entry would cover no run",
        "leave `runs` out to cover all of them",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, runs: [a*b*]}\n",
        4,
        "entry of `runs`: found `a*b*`, expected a run id in lower case, where one `*` may stand for any characters",
        "",
    ),
    (
        "agents:\n  codex:\n    allow:\n      - {secret: a, not_after: 2026-12-31T10:00:00}\n",
        4,
        "`not_after`: found `2026-12-31T10:00:00`, which YAML takes for a date, expected a date (2026-12-31, its end "
        "in UTC) or a date-time with its offset (2026-12-31T18:00:00Z), after 1970",
        "",
    ),
    (
        "roles: {readers: {allow: [a]}}\nagents:\n  codex: {roles: [reader]}\n",
        3,
        "entry of `roles`: there is no role `reader`",
        "did you mean `readers`?",
    ),
    (
        "roles: {r: {allow: [a]}}\nagents:\n  codex: {roles: [r, r]}\n",
        3,
        "entry of `roles`: the role `r` stands twice",
        "keep one of the two",
    ),
    ("roles: {r: {}}\nagents: {}\n", 1, "`r`: the role says nothing", "write `allow:` or `deny:` with a list"),
    (
        "roles: {R: {allow: []}}\nagents: {}\n",
        1,
        "`roles`: role name 'R' is not in canonical form: expected the form of an agent id",
        "",
    ),
    (
        "limits: {agents: 1/m}\nagents: {}\n",
        1,
        "`limits`: unknown key `agents`",
        "did you mean `agent`?",
    ),
    (
        "limits:\n  secrets: {X: 1/m}\nagents: {}\n",
        2,
        "`secrets`: this secret name is not in canonical form: expected lower-case ASCII letters and digits in parts "
        "joined by '.', '_' or '-'",
        "",
    ),
]


@pytest.mark.parametrize(("text", "line", "message", "hint"), WRONG)
def test_a_mistake_is_named_with_its_line_and_what_to_do(text: str, line: int, message: str, hint: str) -> None:
    """Message, line and hint of every mistake that the policy's reader knows."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert (str(caught.value), caught.value.hint) == (f"/etc/policy.yaml:{line}: {message}", hint)


def test_a_long_text_is_cut_in_an_error() -> None:
    """An error stays one line that people can read."""
    with pytest.raises(ConfigError) as caught:
        read("agents:\n  codex:\n    allow:\n      - {secret: a, rate: " + "x" * 5000 + "}\n")
    assert len(str(caught.value)) < 200
