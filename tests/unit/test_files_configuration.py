"""The files as a whole: both forms, what belongs together, and that nothing is silently empty."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from files_workbench import EXAMPLES, FIRST, ISSUERS, SECOND, folder, refusal

from agent_sdk.wire.names import NamePattern
from broker_worker.core.configuration import CacheSettings, Configuration, ServerSettings
from broker_worker.core.policy import decide
from broker_worker.files.configuration import load_configuration
from broker_worker.files.expectations import read_expectations

NOW = 1_800_000_000_000


def single(path: Path, text: str) -> Path:
    """A file with that text."""
    file = path / "all.yaml"
    file.write_text(text)
    return file


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


def test_a_file_that_is_not_there_is_an_error_that_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody named it, perhaps from another folder."""
    monkeypatch.chdir(tmp_path)
    error = refusal(Path("nope.yaml"))
    assert str(error) == "nope.yaml: does not exist"
    assert error.hint == f"is the path right? It stands for {tmp_path / 'nope.yaml'}"


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With what to do: most often it is another home than the one that was meant."""
    hint = "name the home with --home or SECRET_BROKER_HOME; `secret-broker init` makes one"
    assert refusal(tmp_path / "config").hint == hint


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
