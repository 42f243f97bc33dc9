"""`secrets.yaml`: names to references, and never a value."""

import pytest

from broker_worker.core.configuration import SecretEntry
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.core.references import SCHEMES
from broker_worker.files.registry import read_registry
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

BEGINNINGS = ", ".join(f"{scheme}://" for scheme in SCHEMES)


def read(text: str) -> dict[str, SecretEntry]:
    """The registry that a file with that text states."""
    node = parse_yaml(text.encode(), "secrets.yaml")
    return read_registry(Section(node, file="secrets.yaml", origin="secrets.yaml", what="top level").require("secrets"))


def test_both_forms_of_an_entry() -> None:
    """A reference alone, or with the life of its value."""
    assert read('secrets:\n  one: "local://one"\n  two: {ref: "op://v/i/f", ttl_seconds: 1800}\n') == {
        "one": SecretEntry("one", "local://one", None, Origin("secrets.yaml", 2)),
        "two": SecretEntry("two", "op://v/i/f", 1800, Origin("secrets.yaml", 3)),
    }


def test_what_an_entry_says_of_a_vault_that_fails() -> None:
    """For how long its value may be served past its time, and whether it may use the reserve; by default nothing."""
    entries = read(
        'secrets:\n  one: {ref: "local://one", max_stale: 2h, critical: true}\n'
        '  two: {ref: "local://two", max_stale: 0, critical: false}\n  three: "local://three"\n'
    )
    assert [(entry.max_stale_seconds, entry.critical) for entry in entries.values()] == [
        (7200, True),
        (0, False),
        (0, False),
    ]


def test_an_empty_registry_is_written_out() -> None:
    """`secrets: {}` is meant, `secrets:` is not."""
    assert read("secrets: {}") == {}
    with pytest.raises(ConfigError, match="found nothing, expected a mapping"):
        read("secrets:")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("C4NARY-value", f"secret `one`: expected a reference that begins with {BEGINNINGS}"),
        (
            "op://c4nary",
            "secret `one`: the reference is not of the form op://vault/item/field or op://vault/item/section/field",
        ),
        ("123456789", "secret `one`: found a number, expected a reference such as op://vault/item/field"),
        ("[c4nary]", "secret `one`: found a list, expected a reference such as op://vault/item/field"),
        ("{ref: C4NARY}", f"`ref`: expected a reference that begins with {BEGINNINGS}"),
        ("{ref: 123456789}", "`ref`: found a number, expected a reference such as op://vault/item/field"),
        ("{value: c4nary}", "secret `one`: unknown key `value`"),
        (
            "{ref: local://one, max_stale: 90}",
            "`max_stale`: found `90`, which YAML takes for a number, expected a number and its unit, "
            "such as 90s, 10m, 8h or 7d",
        ),
        ("{ref: local://one, max_stale: 367d}", "`max_stale`: found `367d`, expected a duration from 1s to 366d"),
        (
            "{ref: local://one, max_stale: []}",
            "`max_stale`: found a list, expected a number and its unit, such as 90s, 10m, 8h or 7d",
        ),
        ("{ref: local://one, critical: very}", "`critical`: found `very`, expected true or false"),
        ("{ref: local://one, critcal: true}", "secret `one`: unknown key `critcal`"),
        ("{ttl_seconds: 5}", "secret `one`: the key `ref` is missing"),
        (
            "{ref: local://one, ttl_seconds: 0}",
            "`ttl_seconds`: found `0`, which YAML takes for a number, expected a whole number from 1 to 31622400",
        ),
        (
            "{ref: local://one, ttl_seconds: 5m}",
            "`ttl_seconds`: found `5m`, expected a whole number from 1 to 31622400",
        ),
        (
            "{ref: local://one, ttl_seconds: 010}",
            "`ttl_seconds`: found `010`, which YAML takes for a number, expected a whole number from 1 to 31622400",
        ),
    ],
)
def test_a_mistake_has_its_line_and_never_repeats_what_may_be_a_value(entry: str, message: str) -> None:
    """People paste values where references belong: the error must not carry them on."""
    with pytest.raises(ConfigError) as caught:
        read(f"secrets:\n  one: {entry}\n")
    assert str(caught.value) == f"secrets.yaml:2: {message}"
    assert "c4nary" not in (str(caught.value) + caught.value.hint).lower()
    assert "123456789" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_pasted_value_is_answered_with_what_to_do() -> None:
    """It was in a file: it has to be replaced."""
    with pytest.raises(ConfigError) as caught:
        read("secrets: {one: sk-live}")
    assert "replace it in the vault" in caught.value.hint


def test_names_are_canonical() -> None:
    """Upper case is refused, never folded."""
    with pytest.raises(ConfigError, match="this secret name is not in canonical form"):
        read("secrets: {OpenAI: local://openai}")
