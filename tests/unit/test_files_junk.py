"""Files of any kind, text or damage: each loads or is an error of the configuration, and nothing else."""

from pathlib import Path

import pytest
from files_workbench import SECOND
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.errors import ConfigError
from broker_worker.files.configuration import load_configuration

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
