"""Lines are added to the operator's files as text: comments, order and spelling stay."""

# ruff: noqa: E501  # a file before and after is read best on one line

import pytest

from broker_worker.core.errors import ConfigError
from broker_worker.files.yaml_additions import YamlText

REF = {"db.password": "local://db.password"}


def with_reference(text: str) -> str:
    """A registry with one more name."""
    changed = YamlText(text.encode(), "secrets.yaml")
    changed.add_references(REF)
    return changed.raw.decode()


def with_grant(text: str, agent: str = "claude") -> str:
    """A policy with one more name for an agent."""
    changed = YamlText(text.encode(), "policy.yaml")
    changed.add_grants(agent, ["db.password"])
    return changed.raw.decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("secrets:\n  a: b # c\n\n# end\n", 'secrets:\n  a: b # c\n  db.password: "local://db.password"\n\n# end\n'),
        ("secrets:\n    a:\n        ref: b\ncreate_in: []\n", 'secrets:\n    a:\n        ref: b\n    db.password: "local://db.password"\ncreate_in: []\n'),
        ("secrets: {} # none\n", 'secrets: # none\n  db.password: "local://db.password"\n'),
        ("secrets:\r\n  a: b", 'secrets:\r\n  a: b\r\n  db.password: "local://db.password"'),
    ],
)  # fmt: skip
def test_references_stand_after_the_last_one(before: str, after: str) -> None:
    """In the indentation and with the line ends of the file, before what comes after the section."""
    assert with_reference(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("agents:\n  claude:\n    allow:\n    - a # x\n    # y\n  b:\n    allow: []\n", "agents:\n  claude:\n    allow:\n    - a # x\n    - db.password\n    # y\n  b:\n    allow: []\n"),
        ("agents:\n  claude:\n    allow:\n      - secret: a\n        max_ttl: 1m\n    deny: [b]\n", "agents:\n  claude:\n    allow:\n      - secret: a\n        max_ttl: 1m\n      - db.password\n    deny: [b]\n"),
        ("agents:\n  claude:\n    allow: [] # none\n", "agents:\n  claude:\n    allow: [db.password] # none\n"),
        ("policies:\n  claude:\n    allow: [a, b]\n", "policies:\n  claude:\n    allow: [a, b, db.password]\n"),
        ("agents:\n  claude:\n    roles: [r]\n", "agents:\n  claude:\n    roles: [r]\n    allow:\n      - db.password\n"),
    ],
)  # fmt: skip
def test_grants_stand_after_the_last_one(before: str, after: str) -> None:
    """Of that agent, whatever form its list has."""
    assert with_grant(before) == after


@pytest.mark.parametrize("text", ["secrets: {a: b}\n", "secrets:\n  {a: b}\n", "other: {}\n"])
def test_other_forms_of_a_registry_are_refused(text: str) -> None:
    """Rather than written anew; the error says where and what to do."""
    with pytest.raises(ConfigError, match=r"secrets\.yaml"):
        with_reference(text)


@pytest.mark.parametrize("text", ["agents: {claude: {allow: [a]}}\n", "agents:\n  claude:\n    allow: [\n      a]\n", "agents:\n  b: {allow: []}\n"])  # fmt: skip
def test_other_forms_of_a_policy_are_refused(text: str) -> None:
    """So is an agent that is not there."""
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        with_grant(text)


def test_names_that_yaml_reads_otherwise_are_quoted() -> None:
    """A name such as `12` or `no` stays a name."""
    text = YamlText(b"secrets:\n  a: b\n", "secrets.yaml")
    text.add_references({"12": "local://x", "no": "local://y", "1.10": "local://z"})
    assert text.raw == b'secrets:\n  a: b\n  "12": "local://x"\n  "no": "local://y"\n  "1.10": "local://z"\n'
