"""`create_in`: where created names are kept, and that none of them reaches another's place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.names import NamePattern, is_secret_name
from broker_worker.core.configuration import Configuration, CreationRule
from broker_worker.core.errors import ConfigError
from broker_worker.core.lint import lint
from broker_worker.core.policy import Origin
from broker_worker.core.references import check_reference
from broker_worker.files.configuration import load_configuration

ISSUERS = "issuers:\n  - {name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}\n"
RULE = 'create_in:\n  - {pattern: "agents.**", ref: "local://made.{name}", ttl_seconds: 60}\n'
NAMES = st.from_regex(r"[a-z0-9]{1,4}([._-][a-z0-9]{1,4}){0,3}", fullmatch=True).filter(is_secret_name)


def load(folder: Path, secrets: str, policy: str = "agents: {codex: {allow: []}}\n") -> Configuration:
    """The operator's files with that registry."""
    for name, text in (
        ("broker", "provider: {type: local}\n"),
        ("policy", policy),
        ("secrets", secrets),
        ("issuers", ISSUERS),
    ):
        (folder / f"{name}.yaml").write_text(text)
    return load_configuration(folder)


def test_a_name_that_the_rule_covers_has_a_place(tmp_path: Path) -> None:
    """The registry comes first; a name that neither covers has no entry."""
    configuration = load(tmp_path, f'secrets: {{agents.old: "local://old"}}\n{RULE}')
    made = configuration.entry_of("agents.codex.key")
    assert made is not None
    assert (made.ref, made.ttl_seconds, made.is_created) == ("local://made.agents.codex.key", 60, True)
    old = configuration.entry_of("agents.old")
    assert old is not None
    assert (old.ref, old.is_created) == ("local://old", False)
    assert configuration.entry_of("other.key") is None


@given(one=NAMES, other=NAMES)
def test_two_names_never_share_a_place(one: str, other: str) -> None:
    """A place names its secret, and is always of the form that its vault serves."""
    rule = CreationRule(NamePattern("**"), "local://made.{name}", None, Origin("secrets.yaml", 1))
    places = {name: rule.entry_of(name).ref for name in (one, other)}
    assert len(set(places.values())) == len(places)
    for name, ref in places.items():
        if len(ref) <= 128:
            assert check_reference(ref) == ref
        assert rule.name_at(ref) == name


def _rule(ref: str, pattern: str = "agents.*") -> str:
    return f'secrets: {{admin.key: "local://made.admin"}}\ncreate_in:\n  - {{pattern: "{pattern}", ref: "{ref}"}}\n'


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        (_rule("local://made"), "does not have {name} exactly once"),
        (_rule("local://{name}.{name}"), "does not have {name} exactly once"),
        (_rule("local://{agent}.{name}"), "does not have {name} exactly once"),
        (_rule("local://Made.{name}"), "not of the form local://name"),
        (_rule("local://{name}/x"), "not of the form local://name"),
        (_rule("env://{name}"), "not of the form env://NAME"),
        (_rule("s3://{name}"), "expected a reference that begins with"),
        (_rule("op://Agents/{name}/credential"), "no provider of type `onepassword`, which `create_in`"),
        (_rule("op://Agents/{name}/otp?attribute=otp"), "takes no query"),
        (_rule("local://made.{name}", "**"), "whoever may write `admin` would reach the place of `admin.key`"),
        (
            _rule("local://x.{name}") + '  - {pattern: "others.*", ref: "local://x.y.{name}"}\n',
            "a name could have the same place by this rule and by secrets.yaml:3",
        ),
        (_rule("aws-sm://shared#{name}"), "the name would choose a part of one secret"),
        (_rule("aws-sm://a/{name}").replace("local://made.admin", "aws-sm://a/agents.x#key"), "reach the place of"),
        (
            _rule("op://A/{name}/credential").replace("local://made.admin", "op://A/agents.x/other"),
            "reach the place of",
        ),
        ("secrets: {}\ncreate_in: {pattern: a}\n", "expected a list"),
    ],
)
def test_a_rule_that_leads_elsewhere_is_refused(tmp_path: Path, secrets: str, message: str) -> None:
    """With what was found; what stands in a reference's place is not repeated."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, secrets)
    assert message in str(caught.value)
    assert "Made" not in str(caught.value)


def test_a_pasted_value_is_not_repeated(tmp_path: Path) -> None:
    """A value that stands where the template belongs does not get into the error."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, _rule("sk-canary-{name}"))
    assert "canary" not in f"{caught.value}{caught.value.hint}"


def test_the_places_are_part_of_what_was_decided(tmp_path: Path) -> None:
    """Another place for created names is another policy: what people approved before is void."""
    first = load(tmp_path, f"secrets: {{}}\n{RULE}")
    second = load(tmp_path, f"secrets: {{}}\n{RULE.replace('made', 'kept')}")
    assert first.policy.digest != second.policy.digest


def test_lint_knows_names_that_may_be_created(tmp_path: Path) -> None:
    """Entries for them fit something; entries for other names still do not."""
    policy = (
        "agents:\n  codex:\n    allow:\n"
        "      - {secret: agents.codex.key, actions: [write]}\n      - {pattern: agents.*, actions: [write]}\n"
        "      - {pattern: elsewhere.*, actions: [write]}\n"
    )
    configuration = load(tmp_path, f"secrets: {{}}\n{RULE}", policy)
    assert [(found.code, str(found.origin)) for found in lint(configuration, 0)] == [
        ("pattern_matches_nothing", "policy.yaml:6")
    ]
