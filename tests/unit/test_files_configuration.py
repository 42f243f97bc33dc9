"""The files as a whole: both forms, what belongs together, and that nothing is silently empty."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.names import NamePattern
from broker_worker.core.configuration import CacheSettings, Configuration, ServerSettings
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import decide
from broker_worker.files.configuration import load_configuration
from broker_worker.files.expectations import read_expectations

NOW = 1_800_000_000_000
EXAMPLES = Path(__file__).parents[2] / "config"
ISSUERS = "issuers:\n  - {name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}\n"
FILES = {
    "broker.yaml": "provider: {type: local}\n",
    "policy.yaml": "agents:\n  codex: {allow: [one]}\n",
    "secrets.yaml": "secrets: {one: local://one}\n",
    "issuers.yaml": ISSUERS,
}
FIRST = """\
agents:
  claude:
    allow:
      - openai.api_key
      - anthropic.api_key
  codex:
    allow:
      - github.read_token
      - openai.api_key
  grok:
    allow:
      - openai.api_key
  random-script:
    allow: []

default: deny
"""
SECOND = """\
server:
  host: 127.0.0.1
  port: 7700

provider:
  type: onepassword
  token_env: OP_SERVICE_ACCOUNT_TOKEN

cache:
  default_ttl_seconds: 3600
  max_entries: 500

secrets:
  github_token:
    ref: "op://Agent-Orchestra-Secrets/GitHub-PAT/credential"
    ttl_seconds: 1800
  openai_key:
    ref: "op://Agent-Orchestra-Secrets/OpenAI-Key/credential"
    ttl_seconds: 3600
  vercel_token:
    ref: "op://Agent-Orchestra-Secrets/Vercel-Deploy/credential"
    ttl_seconds: 900

policies:
  agent-researcher:
    allow: [openai_key]
  agent-deployer:
    allow: [github_token, vercel_token]
  agent-orchestrator:
    allow: [openai_key, github_token]
"""


def folder(path: Path, **changes: str | None) -> Path:
    """A folder of four valid files, with some replaced or left out."""
    contents: Mapping[str, str | None] = FILES | {name.replace("_", "."): text for name, text in changes.items()}
    for name, text in contents.items():
        if text is not None:
            (path / name).write_text(text)
    return path


def single(path: Path, text: str) -> Path:
    """A file with that text."""
    file = path / "all.yaml"
    file.write_text(text)
    return file


def refusal(path: Path) -> ConfigError:
    """The error that loading gives."""
    with pytest.raises(ConfigError) as caught:
        load_configuration(path)
    return caught.value


def may(configuration: Configuration, agent: str, name: str) -> bool:
    """What the policy says of one name."""
    return decide(configuration.policy, agent, "run-1", name, purpose="", now=NOW).allowed


def test_the_policy_of_four_agents_means_what_it_says(tmp_path: Path) -> None:
    """Each agent gets exactly its list, random-script and everybody else nothing."""
    configuration = load_configuration(single(tmp_path, FIRST))
    names = ["openai.api_key", "anthropic.api_key", "github.read_token", "vercel.token"]
    granted = {
        agent: [name for name in names if may(configuration, agent, name)]
        for agent in ("claude", "codex", "grok", "random-script", "stranger")
    }
    assert granted == {
        "claude": ["openai.api_key", "anthropic.api_key"],
        "codex": ["openai.api_key", "github.read_token"],
        "grok": ["openai.api_key"],
        "random-script": [],
        "stranger": [],
    }
    assert configuration.policy_only


def test_the_single_file_means_what_it_says(tmp_path: Path) -> None:
    """Server, provider, cache without a maximum, registry, and policies whose default is deny."""
    configuration = load_configuration(single(tmp_path, SECOND))
    names = ["github_token", "openai_key", "vercel_token"]
    assert [
        [name for name in names if may(configuration, agent, name)]
        for agent in ("agent-researcher", "agent-deployer", "agent-orchestrator", "stranger")
    ] == [["openai_key"], ["github_token", "vercel_token"], ["github_token", "openai_key"], []]
    assert configuration.cache == CacheSettings(3600, None, 500)
    assert configuration.server == ServerSettings("127.0.0.1", 7700)
    (provider,) = configuration.providers
    assert (provider.type, provider.options) == ("onepassword", {"token_env": "OP_SERVICE_ACCOUNT_TOKEN"})
    assert [configuration.ttl_of(configuration.registry[name]) for name in names] == [1800, 3600, 900]
    assert not configuration.policy_only


def test_a_single_file_in_the_folder_keeps_its_meaning(tmp_path: Path) -> None:
    """As `broker.yaml`, with the issuers beside it."""
    (tmp_path / "issuers.yaml").write_text(ISSUERS)
    (tmp_path / "broker.yaml").write_text(SECOND)
    configuration = load_configuration(tmp_path)
    assert configuration.cache.max_ttl_seconds is None
    (anchor,) = configuration.anchors
    assert anchor.agents == {"agent-researcher", "agent-deployer", "agent-orchestrator"}


def test_four_files_load_with_the_default_cache(tmp_path: Path) -> None:
    """300 s, at most 900 s, ten thousand entries."""
    configuration = load_configuration(folder(tmp_path))
    assert configuration.cache == CacheSettings(300, 900, 10_000)
    assert may(configuration, "codex", "one")


def test_the_split_form_has_a_maximum_even_if_the_cache_section_names_none(tmp_path: Path) -> None:
    """Only the single-file form has no maximum by itself."""
    configuration = load_configuration(
        folder(tmp_path, broker_yaml="provider: {type: local}\ncache: {max_entries: 5}\n")
    )
    assert configuration.cache == CacheSettings(300, 900, 5)


def test_the_examples_load_and_begin_with_the_policy_of_four_agents(tmp_path: Path) -> None:
    """What the repository shows is valid."""
    assert FIRST in (EXAMPLES / "policy.yaml").read_text()
    example = load_configuration(EXAMPLES).policy
    plain = load_configuration(single(tmp_path, FIRST)).policy
    assert {a: [g.pattern for g in p.grants] for a, p in example.agents.items()} == {
        a: [g.pattern for g in p.grants] for a, p in plain.agents.items()
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("policy.yaml", {}),
        ("secrets.yaml", {"broker_yaml": "providers: [{type: onepassword}, {type: local}, {type: env}]\n"}),
        ("broker.yaml", {}),
    ],
)
def test_what_the_examples_show_in_comments_is_valid_too(tmp_path: Path, name: str, changes: dict[str, str]) -> None:
    """All of it without its `#` loads, in place of the keys that stand there already."""
    text = (EXAMPLES / name).read_text()
    shown = "".join(line[1:] + "\n" for line in text.splitlines() if re.match(r"#(\S|  )", line))
    assert shown.count(":") > 2
    whole = {
        "policy.yaml": shown,
        "secrets.yaml": "secrets:\n" + shown,
        "broker.yaml": re.sub(r"(?m)^provider:\n(?:  .*\n)+", "", shown),
    }[name]
    load_configuration(folder(tmp_path, **{name.replace(".", "_"): whole}, **changes))


def test_what_the_documentation_shows_is_valid(tmp_path: Path) -> None:
    """The YAML of docs/policy.md, in its order: policy, entry, who acts, registry, its rule, broker, expectations."""
    text = (EXAMPLES.parent / "docs" / "policy.md").read_text()
    rules, entry, acting, secrets, creation, broker, issuers, *tokens, cases = re.findall(
        r"```yaml\n(.*?)```", text, re.DOTALL
    )
    own = "agents:\n  codex: {allow: []}\n  deployer:\n    allow:\n" + indented(entry)
    agents = rules.replace("agents:\n", own + acting.removeprefix("agents:\n"))
    assert len(tokens) <= 1
    path = folder(
        tmp_path, policy_yaml=agents, secrets_yaml=secrets + creation, broker_yaml=broker, issuers_yaml=issuers
    )
    assert len(load_configuration(path).policy.agents["deployer"].grants) == 1
    assert load_configuration(path).entry_of("agents.claude.key") is not None
    (tmp_path / "cases.yaml").write_text(cases)
    assert len(read_expectations(tmp_path / "cases.yaml").cases) == 4


def indented(text: str) -> str:
    """The text, moved to the depth of an allow list's entries."""
    return "".join(f"      {line}\n" for line in text.splitlines())


@pytest.mark.parametrize("name", ["broker.yaml", "policy.yaml", "secrets.yaml", "issuers.yaml"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    """Not an empty answer."""
    error = refusal(folder(tmp_path, **{name.replace(".", "_"): None}))
    assert str(error) == f"{tmp_path / name}: does not exist"


@pytest.mark.parametrize("name", ["broker.yaml", "policy.yaml", "secrets.yaml", "issuers.yaml"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    """A truncated file must not turn into a policy."""
    error = refusal(folder(tmp_path, **{name.replace(".", "_"): "# nothing\n"}))
    assert str(error) == f"{tmp_path / name}: is empty"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_yaml": "default: deny\n"}, "policy.yaml:1: top level: the key `agents` is missing"),
        ({"secrets_yaml": "agents: {}\n"}, "secrets.yaml:1: top level: unknown key `agents`"),
        ({"policy_yaml": "agents: {}\nsecrets: {}\n"}, "policy.yaml:2: top level: unknown key `secrets`"),
        ({"broker_yaml": "provdier: {type: local}\n"}, "broker.yaml:1: top level: unknown key `provdier`"),
        (
            {"broker_yaml": "provider: {type: local}\npolicies: {}\n"},
            "broker.yaml:1: top level: `policies` stands here, and policy.yaml is there too",
        ),
        (
            {"broker_yaml": "provider: {type: local}\nsecrets: {}\n"},
            "broker.yaml:1: top level: `secrets` stands here, and secrets.yaml is there too",
        ),
        (
            {"broker_yaml": "provider: {type: local}\ndeny: []\n", "policy_yaml": None},
            "broker.yaml:1: top level: the key `agents` is missing",
        ),
        (
            {"secrets_yaml": "secrets:\n  one: env://ONE\n"},
            "broker.yaml:1: top level: no provider of type `env`, which secret `one` (secrets.yaml:2) needs",
        ),
        (
            {"broker_yaml": "cache: {max_entries: 5}\n"},
            "broker.yaml:1: top level: no provider of type `local`, which secret `one` (secrets.yaml:1) needs",
        ),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    """Missing, doubled or contradictory parts."""
    assert str(refusal(folder(tmp_path, **changes))) == f"{tmp_path}/{message}"


def test_a_reference_may_have_the_scheme_of_a_configured_type_of_others(tmp_path: Path) -> None:
    """It is read without the package; without the section nobody could mean it, and a near miss is pointed out."""
    secrets = "secrets:\n  one: keepass://Team/GitHub\n"
    found = load_configuration(folder(tmp_path, broker_yaml="provider: {type: keepass}\n", secrets_yaml=secrets))
    assert found.registry["one"].ref == "keepass://Team/GitHub"
    error = refusal(folder(tmp_path, secrets_yaml=secrets))
    assert "secrets.yaml:2: secret `one`: expected a reference that begins with " in str(error)
    assert "needs its section in broker.yaml" in error.hint
    error = refusal(folder(tmp_path, broker_yaml="provider: {type: lokal}\n"))
    assert error.hint == "did you mean it by `lokal`?"


def test_a_single_file_needs_a_policy(tmp_path: Path) -> None:
    """A registry by itself decides nothing."""
    assert "neither `agents` nor `policies`" in str(refusal(single(tmp_path, "secrets: {}\n")))


def test_a_single_file_with_more_than_a_policy_needs_a_registry(tmp_path: Path) -> None:
    """Otherwise every name would be unknown."""
    assert "the key `secrets` is missing" in str(refusal(single(tmp_path, "agents: {}\ncache: {}\n")))


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With what to do."""
    assert refusal(tmp_path / "config").hint == "expected a YAML file; `secret-broker init` makes commented ones"


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


def test_ttl_is_capped_by_the_maximum(tmp_path: Path) -> None:
    """An entry's own life counts up to the cache's maximum."""
    configuration = load_configuration(
        folder(tmp_path, secrets_yaml="secrets: {one: {ref: local://one, ttl_seconds: 5000}}\n")
    )
    entry = configuration.registry["one"]
    assert configuration.ttl_of(entry) == 900
    unlimited = replace(configuration, cache=CacheSettings(300, None, 5))
    assert unlimited.ttl_of(entry) == 5000


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """500 agents with 20 grants each, over 5,000 secrets."""
    agents = "".join(
        f"  agent-{a}:\n    roles: [all]\n    allow:\n"
        + "".join(f"      - svc{(a * 10 + n) % 5000}.api_key\n" for n in range(20))
        for a in range(500)
    )
    role = "".join(f"      - svc{n}.api_key\n" for n in range(100))
    secrets = "".join(
        f'  svc{n}.api_key: {{ref: "op://Vault/Item{n}/credential", ttl_seconds: 60}}\n' for n in range(5000)
    )
    return load_configuration(
        folder(
            tmp_path_factory.mktemp("big"),
            policy_yaml=f"roles:\n  all:\n    allow:\n{role}agents:\n{agents}",
            secrets_yaml=f"secrets:\n{secrets}",
            broker_yaml="provider: {type: onepassword}\n",
        )
    )


def test_a_big_installation_loads(big: Configuration) -> None:
    """500 agents and 5,000 secrets."""
    assert (len(big.policy.agents), len(big.registry)) == (500, 5000)


def test_a_decision_looks_at_one_entry_however_many_there_are(
    big: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are spelled out are found by name: no entry of a long list is tried in vain."""
    tried = list[str]()
    monkeypatch.setattr(NamePattern, "matches", lambda pattern, name: tried.append(pattern.text))
    assert len(big.policy.agents["agent-499"].grants) == 120
    assert may(big, "agent-499", "svc50.api_key")
    assert not may(big, "agent-499", "svc4000.api_key")
    assert tried == []


WORDS = st.sampled_from(
    [
        "agents",
        "policies",
        "roles",
        "limits",
        "secrets",
        "issuers",
        "provider",
        "cache",
        "server",
        "deny",
        "allow",
        "default",
        "secret",
        "pattern",
        "rate",
        "runs",
        "ref",
        "type",
        "name",
        "one",
        "a.*",
        "30/m",
        "10m",
        "local://one",
        "local",
        "on",
        "12",
        "~",
        "2026-01-01",
        "",
    ]
)
TREES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=20
)
TOPS = st.dictionaries(
    st.sampled_from(
        [
            "agents",
            "policies",
            "secrets",
            "issuers",
            "provider",
            "providers",
            "cache",
            "server",
            "roles",
            "deny",
            "limits",
            "default",
        ]
    ),
    TREES,
)


def flow(tree: object) -> str:
    """A tree in YAML's flow style, with plain scalars."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(flow(item) for item in tree) + "]"
    return str(tree) or "''"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write to, again and again."""
    return tmp_path_factory.mktemp("scratch") / "all.yaml"


@given(tree=TOPS)
def test_any_tree_loads_or_is_a_config_error(scratch: Path, tree: dict[str, object]) -> None:
    """Wrong kinds in wrong places raise nothing but `ConfigError`, and it names the file."""
    scratch.write_text(flow(tree))
    assert outcome(scratch).startswith(str(scratch))


@given(text=st.text(max_size=200))
def test_any_text_loads_or_is_a_config_error(scratch: Path, text: str) -> None:
    """The same for arbitrary text."""
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert outcome(scratch).startswith(str(scratch))


@given(
    position=st.integers(0, len(SECOND) - 1),
    cut=st.integers(0, 12),
    inserted=st.text(alphabet="ab:-[]{}\"'* \n#&", max_size=3),
)
def test_a_damaged_file_loads_or_is_a_config_error(scratch: Path, position: int, cut: int, inserted: str) -> None:
    """A valid file with a few characters lost or added."""
    scratch.write_text(SECOND[:position] + inserted + SECOND[position + cut :])
    assert outcome(scratch).startswith(str(scratch))


def outcome(path: Path) -> str:
    """The message of the error, or the path if the file loads."""
    try:
        load_configuration(path)
    except ConfigError as error:
        return str(error)
    return str(path)
